"""The sound of a restyled video: copied where the new file can hold it, else AAC, which is known before any work."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from imaging.video.restyle import stylize_video
from tests.serving.films import SOUND_RATE, noise, same, write_film


def sound_of(path: Path) -> tuple[str, int, float, np.ndarray]:
    """Codec, channels, when it begins in seconds, and its samples in [-1, 1], mono."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        frames = list(file.decode(stream))
        resampler = av.AudioResampler("flt", "mono", SOUND_RATE)
        parts = [made.to_ndarray()[0] for frame in [*frames, None] for made in resampler.resample(frame)]
        return stream.codec_context.name, stream.codec_context.layout.nb_channels, frames[0].time, np.concatenate(parts)


def restyled(source: Path, ending: str) -> tuple[Path, list[str]]:
    """The file that came of it, and what was told before the first frame."""
    target, told, early = source.with_name(f"out{ending}"), [], []

    def restyle(data: bytes) -> bytes:
        early.extend(told if not early else [])
        return same(data)

    stylize_video(source, target, restyle, lambda *_: None, smooth=False, tell=told.append)
    assert early == told
    return target, told


CASES = [
    # sound, of, into, becomes
    ("pcm_s16le", "in.mkv", ".mp4", "aac"),
    ("pcm_s24le", "in.mov", ".mp4", "aac"),
    ("pcm_s16le", "in.avi", ".m4v", "aac"),
    ("pcm_s16le", "in.mkv", ".mov", "pcm_s16le"),
    ("pcm_s16le", "in.mkv", ".mkv", "pcm_s16le"),
    ("libopus", "in.mkv", ".mp4", "aac"),
    ("libopus", "in.webm", ".mov", "aac"),
    ("libopus", "in.webm", ".mkv", "opus"),
    ("flac", "in.mkv", ".mp4", "aac"),
    ("flac", "in.mkv", ".mov", "aac"),
    ("flac", "in.mkv", ".m4v", "aac"),
    ("libmp3lame", "in.mkv", ".mp4", "mp3float"),
    ("libmp3lame", "in.mkv", ".m4v", "aac"),
    ("libmp3lame", "in.avi", ".mkv", "mp3float"),
    ("mp2", "in.ts", ".mov", "aac"),
    ("aac", "in.ts", ".mp4", "aac"),
    ("pcm_mulaw", "in.mov", ".mkv", "aac"),
    ("ac3", "in.mkv", ".mp4", "ac3"),
]


@pytest.mark.parametrize(("sound", "name", "ending", "becomes"), CASES)
def test_sound_is_copied_where_the_file_can_hold_it_and_else_becomes_aac(tmp_path, sound, name, ending, becomes):
    codec = {"in.webm": "libvpx", "in.avi": "mpeg4"}.get(name, "libx264")
    source = write_film(tmp_path / name, noise(10), codec=codec, sound=sound)
    target, told = restyled(source, ending)
    before, after = sound_of(source), sound_of(target)
    assert after[0] == becomes
    assert after[1] == before[1]
    assert len(after[3]) == pytest.approx(len(before[3]), abs=2500)
    assert loudness(after[3]) == pytest.approx(loudness(before[3]), rel=0.1)
    is_changed = not before[0].startswith(becomes)
    assert [f"the sound is {before[0]}" in line and "becomes AAC" in line for line in told] == [True] * is_changed


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples[4000:-4000]))))


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6), ("2.1", 2)])
def test_channels_are_kept_where_aac_has_them(tmp_path, layout, channels):
    source = write_film(tmp_path / "in.mkv", noise(5), sound="pcm_s16le", layout=layout)
    assert sound_of(restyled(source, ".mp4")[0])[:2] == ("aac", channels)


def test_sound_that_begins_late_or_pauses_still_goes_with_its_pictures(tmp_path):
    source = write_film(tmp_path / "in.mkv", noise(30), sound="pcm_s16le", gaps_ms=[(0, 500), (1000, 2000)])
    codec, _, start, samples = sound_of(restyled(source, ".mp4")[0])
    assert codec == "aac"
    heard = [loudness_at(samples, second - start) > 0.1 for second in (0.75, 1.5, 2.5)]
    assert heard == [True, False, True]
    assert start > 0.4 or loudness_at(samples, 0.25 - start) < 0.01


def loudness_at(samples: np.ndarray, second: float) -> float:
    middle = round(second * SOUND_RATE)
    return float(np.abs(samples[max(0, middle - 1000) : middle + 1000]).mean())
