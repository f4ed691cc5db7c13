"""Folders of frames and videos: order, audio, and less flicker."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ImageCms
from typer.testing import CliRunner

from imaging import images
from imaging.provenance import Provenance, read
from imaging.video.flicker import Smoother, flicker
from imaging.video.restyle import VIDEOS, paint, stylize_folder, stylize_video
from reverie.cli import cli
from reverie.errors import InputError
from tests.conftest import PICTURES
from tests.serving.style_graph import shipped_network


def inverted(data: bytes) -> bytes:
    return images.encode(255 - images.decode(data))


SAID = Provenance(model="style", version="7", style="wave")


def inverted_and_marked(data: bytes) -> bytes:
    return images.encode(255 - images.decode(data), packet=SAID.packet())


def gray_frames(folder: Path, levels: dict[str, int]) -> Path:
    folder.mkdir()
    for name, level in levels.items():
        (folder / name).write_bytes(images.encode(np.full((20, 30, 3), level, np.uint8)))
    return folder


def test_frames_keep_their_names_and_are_taken_in_the_order_of_their_numbers(tmp_path):
    source = gray_frames(tmp_path / "frames", {f"f{i}.png": 10 * i for i in range(12)})
    (source / "notes.txt").write_text("not a frame")
    seen: list[tuple[int, int | None]] = []
    stylize_folder(source, tmp_path / "out", inverted, lambda *progress: seen.append(progress), smooth=False)
    assert seen == [(i, 12) for i in range(1, 13)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f"f{i}.png" for i in range(12))
    for i in range(12):
        assert images.read(tmp_path / "out" / f"f{i}.png")[0, 0, 0] == 255 - 10 * i


def test_each_frame_of_a_folder_says_how_it_was_made_as_the_server_said(tmp_path):
    source = gray_frames(tmp_path / "frames", {"1.png": 10, "2.jpg": 20, "3.webp": 30})
    stylize_folder(source, tmp_path / "marked", inverted_and_marked, lambda *_: None)
    stylize_folder(source, tmp_path / "unmarked", inverted, lambda *_: None)
    assert [read(file) for file in (tmp_path / "marked").iterdir()] == [SAID] * 3
    assert [read(file) for file in (tmp_path / "unmarked").iterdir()] == [None] * 3


@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg"])
def test_each_frame_of_a_folder_keeps_its_transparency_and_its_color_profile(tmp_path, ending):
    source, format = tmp_path / "frames", images.ENDINGS[ending]
    source.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alphas = [np.full((20, 30), 255 - 60 * i, np.uint8) for i in range(3)]
    for i, alpha in enumerate(alphas):
        data = images.encode(np.full((20, 30, 3), 90, np.uint8), format, 92, alpha, profile if i else None)
        (source / f"{i}{ending}").write_bytes(data)
    stylize_folder(source, tmp_path / "out", inverted, lambda *_: None, smooth=False)
    for i, alpha in enumerate(alphas):
        frame = images.read_picture(tmp_path / "out" / f"{i}{ending}")
        assert frame.icc_profile == (profile if i else None)
        assert (frame.alpha is None) == (i == 0 or ending == ".jpg")
        if frame.alpha is not None:
            np.testing.assert_array_equal(frame.alpha, alpha)


def test_a_frame_that_comes_back_smaller_has_its_transparency_at_that_size(tmp_path):
    (tmp_path / "frames").mkdir()
    alpha = np.where(np.arange(60) < 30, 0, 255).astype(np.uint8) * np.ones((40, 1), np.uint8)
    (tmp_path / "frames" / "1.png").write_bytes(images.encode(np.zeros((40, 60, 3), np.uint8), alpha=alpha))
    half = lambda data: images.encode(images.fit_within(images.decode(data), 30))  # noqa: E731
    stylize_folder(tmp_path / "frames", tmp_path / "out", half, lambda *_: None)
    frame = images.read_picture(tmp_path / "out" / "1.png")
    assert frame.alpha is not None
    assert frame.alpha.shape == (20, 30)
    assert (frame.alpha[:, :12].max(), frame.alpha[:, 18:].min()) == (0, 255)


def test_a_folder_without_frames_says_what_frames_are(tmp_path):
    with pytest.raises(InputError, match=r"holds no frames; accepted: files ending in \.png"):
        stylize_folder(tmp_path, tmp_path / "out", inverted, lambda *_: None)


def test_a_painting_that_flickers_settles_where_nothing_moves_and_follows_at_once_where_something_does():
    rng, smoother = np.random.default_rng(0), Smoother()
    before = images.resize(rng.integers(0, 100, (6, 10, 3), np.uint8), 60, 100)
    after = before.copy()
    after[:, 80:] += 100
    for _ in range(30):
        settled = smoother(before, np.full_like(before, 120) + rng.integers(-20, 21, before.shape, np.int8))
    assert np.abs(settled.astype(int) - 120).mean() < 5  # Of 10 in a single frame.
    painted = np.full_like(before, 10)
    moved = smoother(after, painted)
    np.testing.assert_array_equal(moved[:, 84:], painted[:, 84:])
    assert moved[:, :76].mean() > 90


def test_while_the_camera_turns_a_clear_sky_is_not_held_either():
    rng, smoother = np.random.default_rng(0), Smoother()
    ground = images.resize(rng.integers(0, 256, (6, 30, 3), np.uint8), 40, 200)
    for i in range(4):
        frame = np.concatenate([np.full((60, 100, 3), 220, np.uint8), ground[:, 4 * i : 4 * i + 100]])
        painted = rng.integers(0, 256, frame.shape, np.uint8)
        np.testing.assert_array_equal(smoother(frame, painted), painted)


def test_the_shipped_style_flickers_less_than_frame_by_frame():
    rng = np.random.default_rng(0)
    network, photo = shipped_network(), images.fit_within(images.read(PICTURES / "cat.jpg"), 160)
    frames = [images.to_uint8(photo + rng.normal(0, 2, photo.shape)) for _ in range(6)]

    def restyle(data: bytes) -> bytes:
        return images.encode(network(images.decode(data)))

    plain, smooth = (list(paint(frames, restyle, smooth)) for smooth in (False, True))
    assert flicker(frames[2:], smooth[2:]) < 0.4 * flicker(frames[2:], plain[2:])


def test_the_command_restyles_a_folder(server, tmp_path):
    source = tmp_path / "frames"
    source.mkdir()
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(PICTURES / "cat.jpg", source / name)
    arguments = ["stylize", source, tmp_path / "out", "--size", 100, "--address", server.address.grpc]
    assert CliRunner().invoke(cli, [*map(str, arguments)]).exit_code == 0
    assert images.read(tmp_path / "out" / "2.jpg").shape[1] == 100


def write_video(path: Path, frames: int) -> None:
    """Frames of growing brightness at 10 a second, and a tone."""
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=10), file.add_stream("aac", rate=16_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        tone = np.sin(np.arange(1600 * frames) / 10).astype(np.float32)[None]
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate = 16_000
        file.mux([*audio.encode(sound), *audio.encode(None), *video.encode(None)])


def test_a_video_keeps_its_frames_their_times_and_its_audio(tmp_path):
    source, target, seen = tmp_path / "in.mp4", tmp_path / "out.mp4", []
    write_video(source, frames=8)
    stylize_video(source, target, inverted, lambda *progress: seen.append(progress), smooth=False)
    assert seen[-1] == (8, 8)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        old, new = list(before.decode(video=0)), list(after.decode(video=0))
        assert [f.time for f in new] == pytest.approx([f.time for f in old])
        assert new[7].to_ndarray(format="rgb24").mean() == pytest.approx(255 - 140, abs=6)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        packets = [[bytes(p) for p in file.demux(audio=0)] for file in (before, after)]
        assert packets[0] == packets[1]


@pytest.mark.parametrize("ending", VIDEOS)
def test_a_video_says_how_it_was_made_and_can_still_be_read(tmp_path, ending):
    source, target = tmp_path / "in.mp4", tmp_path / f"out{ending}"
    write_video(source, frames=5)
    for restyle, expected in ((inverted_and_marked, SAID), (inverted, None)):
        stylize_video(source, target, restyle, lambda *_: None, smooth=False)
        assert read(target) == expected
        with av.open(str(target)) as film:
            assert len(list(film.decode(video=0))) == 5
    written = []
    for _ in range(2):
        stylize_video(source, target, inverted_and_marked, lambda *_: None)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_a_video_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"broken\.mp4: the video cannot be read"):
        stylize_video(tmp_path / "broken.mp4", tmp_path / "out.mp4", inverted, lambda *_: None)
