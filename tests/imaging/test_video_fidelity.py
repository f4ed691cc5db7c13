"""A restyled video is shown as its source: the shape of pixels, which way is up, colors, times, and its whole length."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from imaging.video.restyle import stylize_video
from reverie.errors import InputError
from tests.serving.films import HEIGHT, WIDTH, decoded, noise, same, write_film, yuv_frame, yuv_of


def restyled(source: Path, ending: str = ".mp4") -> tuple[Path, list[str]]:
    """The file that came of it, and what was told."""
    target, told = source.with_name(f"out{ending}"), []
    stylize_video(source, target, same, lambda *_: None, smooth=False, tell=told.append)
    return target, told


def of_stream(path: Path, read):
    with av.open(str(path)) as file:
        return read(file.streams.video[0])


@pytest.mark.parametrize(
    ("ending", "aspect"),
    [(".mp4", Fraction(16, 11)), (".mov", Fraction(8, 9)), (".mkv", Fraction(16, 11)), (".m4v", Fraction(1))],
)
def test_pixels_keep_their_shape(tmp_path, ending, aspect):
    source = write_film(tmp_path / "in.mp4", noise(2), sample_aspect_ratio=aspect)
    target, _ = restyled(source, ending)
    assert of_stream(target, lambda s: s.sample_aspect_ratio) == aspect


QUARTERS = [(turn, mirrored) for turn in (0, 90, 180, 270) for mirrored in (False, True)]


@pytest.mark.parametrize(("turn", "mirrored"), QUARTERS)
def test_turned_and_mirrored_sources_come_out_upright(tmp_path, turn, mirrored):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = 255  # One bright corner, a half bright one beside it.
    pixels[: HEIGHT // 2, WIDTH // 2 :] = 128
    source = write_film(tmp_path / "in.mp4", [pixels], sample_aspect_ratio=Fraction(16, 11))
    show_as(source, turn, mirrored)
    target, _ = restyled(source)
    shown = np.rot90(pixels[:, ::-1] if mirrored else pixels, turn // 90)
    (frame,) = decoded(target)
    np.testing.assert_allclose(frame.to_ndarray(format="rgb24").astype(int), shown, atol=25)
    assert frame.rotation == 0
    aspect = of_stream(target, lambda s: s.sample_aspect_ratio)
    assert aspect == (Fraction(11, 16) if turn in (90, 270) else Fraction(16, 11))


def show_as(path: Path, turn: int, mirrored: bool) -> None:
    """Put a display matrix into an MP4 file: mirrored first, then turned against the clock."""
    one = 1 << 16
    a, b, c, d = {0: (one, 0, 0, one), 90: (0, -one, one, 0), 180: (-one, 0, 0, -one), 270: (0, one, -one, 0)}[turn]
    matrix = np.array([-a if mirrored else a, -b if mirrored else b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(data)


COLORS = [(81, 90, 190), (150, 60, 100), (120, 170, 120)]


@pytest.mark.parametrize(
    ("tags", "range"),
    [
        ((1, 1, 1), 1),
        ((1, 1, 1), 2),
        ((1, 12, 13), 1),
        ((5, 5, 6), 1),
        ((6, 6, 6), 1),
        ((6, 6, 6), 2),
        ((7, 7, 7), 1),
        ((9, 9, 14), 2),
        ((9, 9, 16), 1),
        ((9, 9, 18), 1),
        ((4, 4, 4), 1),
    ],
)
def test_colors_keep_their_numbers_and_their_tags(tmp_path, tags, range):
    matrix, primaries, transfer = tags
    context = {"colorspace": matrix, "color_primaries": primaries, "color_trc": transfer, "color_range": range}
    frames = [yuv_frame(*color) for color in COLORS]
    source = write_film(tmp_path / "in.mkv", frames, options={"crf": "1"}, **context)
    target, _ = restyled(source, ".mp4")
    said = of_stream(target, lambda s: (s.colorspace, s.color_primaries, s.color_trc, s.color_range))
    assert said == (matrix, primaries, transfer, range)
    for frame, color in zip(decoded(target), COLORS, strict=True):
        assert yuv_of(frame) == pytest.approx(color, abs=4)


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (576, 5), (720, 1)])
def test_colors_without_tags_are_those_that_players_take_for_the_source_s_size(tmp_path, height, matrix):
    frame = av.VideoFrame(WIDTH, height, "yuv420p")
    for plane, value in zip(frame.planes, COLORS[0], strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    source = write_film(tmp_path / "in.mp4", [frame], height=height)
    target, _ = restyled(source)
    assert of_stream(target, lambda s: s.colorspace) == matrix
    assert yuv_of(decoded(target)[0]) == pytest.approx(COLORS[0], abs=4)


def test_red_of_an_animation_is_red_in_the_video_s_own_colors(tmp_path):
    red = Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0))
    red.save(tmp_path / "in.gif", save_all=True, append_images=[Image.new("RGB", red.size, (0, 0, 255))], duration=100)
    target, _ = restyled(tmp_path / "in.gif")
    assert of_stream(target, lambda s: (s.colorspace, s.color_primaries, s.color_trc)) == (1, 1, 13)
    assert yuv_of(decoded(target)[0]) == pytest.approx((63, 102, 240), abs=3)  # BT.709's red.


SLIDES = [(4000, 4000, 1000), (1000, 1000, 4000), (100, 100, 100), (500,), (40, 2000, 40, 700)]


@pytest.mark.parametrize(("source_ending", "ending"), [(".mp4", ".mp4"), (".mkv", ".mov"), (".mp4", ".mkv")])
@pytest.mark.parametrize("durations", SLIDES)
def test_every_frame_is_shown_as_long_as_before_the_last_one_too(tmp_path, durations, source_ending, ending):
    source = write_film(tmp_path / f"in{source_ending}", noise(len(durations)), durations_ms=durations)
    target, told = restyled(source, ending)
    starts = [frame.time for frame in decoded(target)]
    assert starts == pytest.approx(np.cumsum((0, *durations))[:-1] / 1000, abs=0.002)
    assert length_s(target) == pytest.approx(sum(durations) / 1000, abs=0.002)
    assert decoded(target)[-1].duration * decoded(target)[-1].time_base == pytest.approx(
        durations[-1] / 1000, abs=0.002
    )
    assert told == []


def length_s(path: Path) -> float:
    with av.open(str(path)) as file:
        return file.duration / 1e6


def test_a_source_that_stores_its_last_frame_before_others_keeps_the_last_frame_s_time(tmp_path):
    still = [np.full((HEIGHT, WIDTH, 3), 90 + i, np.uint8) for i in range(5)]
    durations = (1000, 2000, 1000, 3000, 500)
    source = write_film(tmp_path / "in.mp4", still, durations_ms=durations, max_b_frames=3)
    with av.open(str(source)) as file:  # In the order of storage, the last one shown is not the last.
        stored = [packet.pts for packet in file.demux(video=0) if packet.pts is not None]
    assert stored[-1] != max(stored)
    target, _ = restyled(source)
    assert length_s(target) == pytest.approx(length_s(source), abs=0.01)


CUT = {
    "in.mp4": {"container": {"movflags": "faststart"}, "sound": "aac"},
    "in.mov": {"container": {"movflags": "faststart"}, "sound": "pcm_s16le"},
    "in.mkv": {"sound": "aac"},
    "in.webm": {"codec": "libvpx", "sound": "libopus"},
    "in.avi": {"codec": "mpeg4", "sound": "pcm_s16le"},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "gop_size": 10},
    "in.flv": {"sound": "aac"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CUT)
def test_a_source_that_is_cut_short_is_said_to_be_and_a_whole_one_is_not(tmp_path, name):
    source = write_film(tmp_path / name, noise(40), **CUT[name])
    assert [line for line in restyled(source)[1] if "cut" in line or "damaged" in line] == []
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    target, told = restyled(source)
    assert f"{source} is cut short" in told[-1]
    assert "could be read; the result ends there" in told[-1]
    assert 10 < len(decoded(target)) < 30


def test_a_source_of_which_nothing_is_whole_leaves_no_result(tmp_path):
    source = write_film(tmp_path / "in.mp4", noise(4), container={"movflags": "faststart"})
    data = source.read_bytes()
    source.write_bytes(data[: data.index(b"mdat") + 10])
    with pytest.raises(InputError, match=r"in\.mp4: the video cannot be read: not one frame of it is whole"):
        restyled(source)
    source.write_bytes(write_film(tmp_path / "other.mp4", noise(4)).read_bytes()[:2000])  # Its index is at the end.
    with pytest.raises(InputError, match=r"in\.mp4: the video cannot be read .*; it may be cut short"):
        restyled(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "other.mp4"]


def test_damage_in_the_middle_is_said_and_the_rest_is_restyled(tmp_path):
    source = write_film(tmp_path / "in.mov", noise(20), codec="png", pix_fmt="rgb24")
    with av.open(str(source)) as file:
        middle = next(p.pos for i, p in enumerate(file.demux(video=0)) if i == 10)
    data = bytearray(source.read_bytes())
    data[middle : middle + 60] = bytes(60)
    source.write_bytes(data)
    target, told = restyled(source)
    assert told == [f"{source} is damaged: some of its frames could not be read"]
    assert len(decoded(target)) == 19
    assert length_s(target) == pytest.approx(2.0, abs=0.01)
