"""What `reverie stylize` makes of each kind of source under each kind of name; no server runs, frames stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reverie_client import Client
from typer.testing import CliRunner

from imaging import images
from reverie.cli import cli
from tests.conftest import PICTURES
from tests.serving.films import HEIGHT, WIDTH, decoded, noise, write_film

LEVELS = (0, 100, 200)
"""Of the frames of each film here."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Client, "stylize", lambda client, image, **_: image)
    return tmp_path


def stylize(*arguments: object) -> tuple[int, str]:
    """Status, and what was said, on one line."""
    result = CliRunner().invoke(cli, ["stylize", *map(str, arguments), "--no-smooth"])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def grays() -> list[np.ndarray]:
    return [np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in LEVELS]


def animation(path: Path, durations: list[int], **options: object) -> Path:
    first, *others = [Image.fromarray(frame) for frame in grays()]
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    return path


def frames_in(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"f{i}.png").write_bytes(images.encode(grays()[i % 3]))
    return folder


def levels_of(path: Path) -> list[float]:
    return [frame.to_ndarray(format="rgb24").mean() for frame in decoded(path)]


FILMS = {
    "clip.webm": {"codec": "libvpx-vp9", "sound": "libopus"},
    "clip.avi": {"codec": "mpeg4", "sound": "pcm_s16le"},
    "clip.ts": {"sound": "mp2"},
    "clip.flv": {"sound": "aac"},
    "clip.3gp": {"sound": "aac"},
    "CLIP.MOV": {"sound": "aac"},
}


@pytest.mark.parametrize("name", FILMS)
def test_videos_of_many_kinds_are_read_whatever_they_are_called(folder, name):
    write_film(folder / name, grays(), **FILMS[name])
    shutil.copy(folder / name, folder / "nameless")
    for source in (name, "nameless"):
        assert stylize(source, "out.mp4")[0] == 0
        assert levels_of(folder / "out.mp4") == pytest.approx(LEVELS, abs=4)


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {})])
def test_animations_become_videos_with_the_times_of_their_frames(folder, name, options):
    animation(folder / name, [400, 200, 1000], **options)
    assert stylize(name, "out.mp4")[0] == 0
    frames = decoded(folder / "out.mp4")
    assert levels_of(folder / "out.mp4") == pytest.approx(LEVELS, abs=4)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.4, 0.6])
    assert frames[-1].duration * frames[-1].time_base == pytest.approx(1)


def test_frames_of_a_gif_that_say_no_time_are_shown_as_in_browsers(folder):
    animation(folder / "a.gif", [0, 0, 0])
    assert stylize("a.gif", "out.mkv")[0] == 0
    assert [frame.time for frame in decoded(folder / "out.mkv")] == pytest.approx([0, 0.1, 0.2])


def test_transparent_parts_of_an_animation_are_white(folder):
    clear = [Image.new("RGBA", (WIDTH, HEIGHT), (level, 0, 0, 0)) for level in (0, 90)]
    clear[0].save(folder / "a.webp", save_all=True, append_images=clear[1:], duration=100, lossless=True)
    assert stylize("a.webp", "out.mp4")[0] == 0
    assert levels_of(folder / "out.mp4")[0] == pytest.approx(255, abs=2)


def test_a_folder_of_frames_becomes_a_video_where_the_name_is_that_of_one(folder):
    frames_in(folder / "frames", 12)
    for options, rate in (((), 25), (("--fps", "12.5"), 12.5), (("--fps", "29.97"), 29.97)):
        assert stylize("frames", "out.MP4", *options)[0] == 0
        frames = decoded(folder / "out.MP4")
        assert [frame.time for frame in frames] == pytest.approx([i / rate for i in range(12)], abs=1e-4)
        assert levels_of(folder / "out.MP4") == pytest.approx(LEVELS * 4, abs=4)


def test_a_folder_stays_one_where_the_name_is_none_of_a_file_or_such_a_folder_is_there(folder):
    frames_in(folder / "frames")
    (folder / "there.mp4").mkdir()
    for output in ("painted", "painted.v2", "deep/painted", "there.mp4"):
        assert stylize("frames", output)[0] == 0
        assert sorted(path.name for path in (folder / output).iterdir()) == ["f0.png", "f1.png", "f2.png"]


def test_a_picture_of_an_animation_is_its_first_frame_and_that_is_said(folder):
    animation(folder / "a.webp", [100, 100, 100], lossless=True)
    status, said = stylize("a.webp", "out.webp")
    assert status == 0
    assert "a.webp has several frames and out.webp the first; give an output ending in .mp4" in said


@pytest.mark.parametrize(
    ("source", "output", "truth"),
    [
        ("clip.webm", "out.webm", "clip.webm is read as a video, of which comes a video: .mp4, .mov, .mkv, .m4v"),
        ("clip.webm", "out.png", "clip.webm is read as a video"),
        ("a.gif", "out.gif", "a.gif is read as a video"),
        ("a.gif", "out", "a.gif is read as a video"),
        ("cat.jpg", "out.mp4", "cat.jpg is a picture, of which comes a picture: .png, .jpg, .jpeg, .webp"),
        ("nameless", "out.mp4", "nameless is a picture"),
        ("frames", "out.png", "frames is a folder of frames, of which come a folder or a video"),
        ("frames", "out.webm", "frames is a folder of frames"),
        ("frames", "out.gif", "frames is a folder of frames"),
        ("notes.txt", "out.png", "notes.txt is neither a picture that is read"),
        ("tone.mp4", "out.png", "tone.mp4 is neither a picture that is read"),
        ("absent.webm", "out.mp4", "there is no file absent.webm"),
    ],
)
def test_what_cannot_be_made_is_said_of_the_one_at_fault(folder, source, output, truth):
    write_film(folder / "clip.webm", grays(), codec="libvpx")
    animation(folder / "a.gif", [100, 100, 100])
    shutil.copy(PICTURES / "cat.jpg", folder / "cat.jpg")
    shutil.copy(PICTURES / "cat.jpg", folder / "nameless")
    frames_in(folder / "frames")
    (folder / "notes.txt").write_text("words\n" * 100)
    (folder / "tone.mp4").write_bytes(b"\0" * 100)
    before = sorted(folder.rglob("*"))
    status, said = stylize(source, output)
    assert status == 2
    assert truth in said
    assert sorted(folder.rglob("*")) == before


def test_frames_of_other_sizes_are_named_before_a_video_is_begun(folder):
    frames_in(folder / "frames")
    (folder / "frames" / "f10.png").write_bytes(images.encode(noise(1)[0][:32]))
    result = CliRunner().invoke(cli, ["stylize", "frames", "out.mp4"])
    assert result.exit_code == 1
    assert "f10.png: 64x32 pixels, and f0.png has 64x48" in str(result.exception)
    assert not (folder / "out.mp4").exists()


@pytest.mark.parametrize("fps", ["0", "nan", "1000", "-5"])
def test_frames_a_second_are_a_number_that_videos_have(folder, fps):
    frames_in(folder / "frames")
    status, said = stylize("frames", "out.mp4", "--fps", fps)
    assert status == 2
    assert "accepted: 0.1 to 240" in said
