"""Small films to test with, and what a film that was written says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
RATE = 10
"""Frames a second where nothing else is said."""
SOUND_RATE = 48_000


def same(data: bytes) -> bytes:
    """A style that changes nothing."""
    return data


def noise(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8))


def write_film(
    path: Path,
    frames: Sequence[np.ndarray | Any],
    codec: str = "libx264",
    sound: str = "",
    layout: str = "mono",
    gaps_ms: Sequence[tuple[int, int]] = (),
    durations_ms: Sequence[int] = (),
    container: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Frames, uint8 (height, width, 3) or PyAV's own, and where a codec for it is named a tone of the same length.

    Args:
        gaps_ms: times in which the file has no sound at all.
        durations_ms: of each frame, where they are not all 1 / `RATE` seconds.
        container: options of FFmpeg for the container.
        context: attributes of the video's codec context.
    """
    with av.open(str(path), "w", options=container or {}) as file:
        video = file.add_stream(codec, rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for name, value in ({"time_base": Fraction(1, 1000)} | context).items():
            setattr(video.codec_context, name, value)
        audio = file.add_stream(sound, rate=SOUND_RATE, layout=layout) if sound else None
        start, ends = 0, {}
        for i, given in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(given, format="rgb24") if isinstance(given, np.ndarray) else given
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            ends[start] = durations_ms[i] if durations_ms else 1000 // RATE
            _mux(file, video.encode(frame), ends)
            if audio and not any(first <= start < last for first, last in gaps_ms):
                file.mux(audio.encode(_tone(start, ends[start], layout)))
            start += ends[start]
        _mux(file, video.encode(None), ends)
        if audio:
            file.mux(audio.encode(None))
    return path


def _mux(file: Any, packets: list[Any], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations[packet.pts]
    file.mux(packets)


def _tone(start_ms: int, duration_ms: int, layout: str) -> Any:
    count, channels = duration_ms * SOUND_RATE // 1000, av.AudioLayout(layout).nb_channels
    samples = (9000 * np.sin(np.arange(count * channels) / 10 / channels)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start_ms * SOUND_RATE // 1000, Fraction(1, SOUND_RATE)
    return frame


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def yuv_frame(y: int, u: int, v: int) -> Any:
    """A frame of one color, 4:2:0."""
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def yuv_of(frame: Any) -> list[float]:
    """Mean of each plane."""
    return [
        float(np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width].mean())
        for plane in frame.planes
    ]
