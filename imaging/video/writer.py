"""A video file out of frames: H.264, with the times, the shape of pixels and the colors of its source, and its sound."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imaging import xmp
from imaging.video.film import Look
from imaging.video.sound import Sound, sound_for
from imaging.video.video_file import pyav
from reverie.errors import InputError

VIDEOS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".m4v": "ipod"}
"""Endings of videos that are written, and what FFmpeg calls each format."""
# Without B frames, packets are in the order of their frames, so that each one's duration is its frame's: with them, some
# readers of MP4 take for the last frame's what is another's. "bitexact": Matroska files would else have a random number.
_ENCODER = {"crf": "18", "bf": "0"}
_MUXER = {"fflags": "+bitexact"}


class VideoWriter:
    """Writes frames, and the sound that belongs to them, one after the other.

    Args:
        writer: an open PyAV container.
        ending: one of `VIDEOS`.
        look: of the frames.
        sound: PyAV's audio stream whose packets will come, or None.
    """

    def __init__(self, writer: Any, ending: str, look: Look, sound: Any):
        self._writer, self._look = writer, look
        self._output = writer.add_stream("libx264", rate=look.rate, options=_ENCODER)
        self._output.pix_fmt = "yuv420p"
        self._sound: Sound | None = sound_for(sound, writer, ending)
        self._durations: dict[int, int] = {}

    @property
    def change_of_sound(self) -> str:
        """In words what becomes of the sound; empty where it stays as it is."""
        return self._sound.change if self._sound else ""

    def say(self, packet: bytes) -> None:
        """Put an XMP packet into the header of a Matroska file; before the first frame."""
        self._writer.metadata[xmp.MATROSKA_TAG] = packet.decode()

    def write(self, pixels: np.ndarray, start: int, duration: int, sound: deque[Any]) -> None:
        """The next frame, uint8 (height, width, 3), and packets of the source's sound; the first frame decides the size."""
        height, width = (side // 2 * 2 for side in pixels.shape[:2])  # H.264 halves the colors' resolution.
        picture = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        frame = self._look.colors.to_frame(picture)
        frame.pts, frame.time_base = start, self._look.time_base
        self._durations[start] = duration
        if not self._output.codec_context.is_open:
            self._open(height, width)
        self._mux(self._output.encode(frame))
        self._mux_sound(sound)

    def close(self, sound: deque[Any]) -> None:
        """What the encoders still hold, and the rest of the sound."""
        self._mux(self._output.encode(None))
        self._mux_sound(sound)
        if self._sound:
            self._writer.mux(self._sound.rest())

    def _open(self, height: int, width: int) -> None:
        context = self._output.codec_context
        self._output.height, self._output.width = height, width
        context.time_base, context.sample_aspect_ratio = self._look.time_base, self._look.pixel_aspect
        self._look.colors.tag(context)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts)
        self._writer.mux(packets)

    def _mux_sound(self, packets: deque[Any]) -> None:
        """After a frame: the first packet writes the file's header, which needs the pictures' size."""
        while packets:
            packet = packets.popleft()
            self._writer.mux(self._sound.convert(packet) if self._sound else [])


@contextlib.contextmanager
def open_video(path: Path, ending: str, look: Look, sound: Any) -> Iterator[VideoWriter]:
    """Open a video file to write; see `VideoWriter`.

    Raises:
        InputError: it cannot be written.
    """
    av = pyav()
    try:
        with av.open(xmp.as_url(path), "w", format=VIDEOS[ending], options=_MUXER) as writer:
            yield VideoWriter(writer, ending, look, sound)
    except av.error.FFmpegError as error:
        raise InputError(f"the {ending} video cannot be written ({error.strerror})") from None
