"""Video files, read by PyAV: frames upright, with their times, and what of a damaged file is missing."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from imaging import xmp
from imaging.video.colors import Colors
from imaging.video.film import Frame, Look
from reverie.errors import InputError

_PATIENCE = Fraction(3, 2)
"""Of a whole video, at most so many times the longest duration of a frame are missing at the end."""
_OTHER_STREAM = Fraction(1, 2)
"""Seconds that the longest stream may last beyond the others, where only the length of the whole file is known."""
_TEXT = "tty"
"""FFmpeg's name of texts, of which it makes videos of terminals."""


class VideoFile:
    """The main video stream of a file, and the packets of its first audio stream.

    Raises:
        InputError: it has no video stream.
    """

    def __init__(self, source: Path, container: Any):
        self._source, self._container = source, container
        self._video = container.streams.best("video")
        if self._video is None:
            raise InputError(f"{source} has no video stream")
        self._rate = self._video.average_rate or self._video.guessed_rate or Fraction(25)
        self.frame_count: int | None = self._video.frames or None
        # Other formats count what they leave out too.
        self._stored = self._video.frames if "mp4" in container.format.name else 0
        self.sound: Any = next(iter(container.streams.audio), None)
        self.sound_packets: deque[Any] = deque()
        self.damage = ""
        self._seen = _Seen()
        self._held, self.look = None, self._look_of(None)
        self._decoded = self._decode()
        self._look_at_first()

    def frames(self) -> Iterator[Frame]:
        held = self._held
        while held is not None:
            following = next(self._decoded, None)
            duration = self._last_duration(held) if following is None else following.pts - held.pts
            yield Frame(upright(self.look.colors.to_rgb(held), display_matrix(held)), held.pts, duration)
            held = following
        self.damage = self._damage()

    def _look_at_first(self) -> None:
        """Decode the first frame, which tells how the video is turned."""
        self._held = next(self._decoded, None)
        if self._held is None:
            raise InputError(f"{self._source}: the video cannot be read: not one frame of it is whole")
        self.look = self._look_of(display_matrix(self._held))

    def _look_of(self, matrix: np.ndarray | None) -> Look:
        aspect = self._video.sample_aspect_ratio or Fraction(1)
        turned = matrix is not None and _swaps_axes(matrix)
        colors = Colors.of_stream(self._video.codec_context)
        return Look(self._video.time_base, self._rate, 1 / aspect if turned else aspect, colors)

    def _decode(self) -> Iterator[Any]:
        """Frames whose times grow; sound is put aside."""
        before = None
        for packet in self._packets():
            for frame in self._frames_of(packet):
                if frame.pts is None:
                    frame.pts = 0 if before is None else before + self._usual_duration()
                if before is not None and frame.pts <= before:
                    frame.pts = before + 1
                self._seen.frame(frame, before)
                before = frame.pts
                yield frame

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the video; they end where the file is cut off."""
        demuxed = self._container.demux([stream for stream in (self._video, self.sound) if stream])
        with contextlib.suppress(pyav().error.FFmpegError):
            for packet in demuxed:
                if packet.size:  # Others end the streams. Only the last one tells: broadcasts have corrupt ones amid.
                    self._seen.torn = packet.is_corrupt
                if packet.stream is self._video:
                    self._seen.packets += packet.size > 0
                    yield packet
                elif packet.dts is not None:  # A packet without data ends the stream.
                    self._seen.sound(packet)
                    self.sound_packets.append(packet)
            return
        self._seen.torn = True

    def _frames_of(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except pyav().error.FFmpegError:
            self._seen.broken += 1
            return []

    def _usual_duration(self) -> int:
        return max(1, round(1 / self._rate / self._video.time_base))

    def _last_duration(self, last: Any) -> int:
        """Return the duration of the last frame. Decoders know that of the last one stored, not of the last one shown."""
        end = self._declared_end()
        if end and end > last.pts and not self._is_short():
            return end - last.pts
        return last.duration or self._usual_duration()

    def _declared_end(self) -> int | None:
        """Where the file says that its video ends, in units of the time base."""
        if self._video.duration:
            return (self._video.start_time or 0) + self._video.duration
        tagged = re.match(r"(\d+):(\d+):(\d+\.?\d*)", self._video.metadata.get("DURATION", ""))
        if not tagged:
            return None
        hours, minutes, seconds = (Fraction(part) for part in tagged.groups())
        return round((3600 * hours + 60 * minutes + seconds) / self._video.time_base)

    def _is_short(self) -> bool:
        """Whether frames are missing at the end."""
        seen, unit, usual = self._seen, self._video.time_base, self._usual_duration()
        end = self._declared_end()
        if seen.torn:
            return True
        if end is None:  # All that is known is when the longest stream ends.
            whole = Fraction((self._container.start_time or 0) + (self._container.duration or 0), 1_000_000)
            return whole - max(seen.end * unit, seen.sound_end) > _OTHER_STREAM
        missing = end - seen.end
        if self._stored:  # Of a film that was trimmed, fewer are shown than are stored.
            return seen.packets < self._stored and missing * 2 > usual
        return missing > _PATIENCE * max(seen.longest, usual)

    def _damage(self) -> str:
        if not self._is_short():
            return f"{self._source} is damaged: some of its frames could not be read" if self._seen.broken else ""
        end = self._declared_end()
        until = float(self._seen.end * self._video.time_base)
        whole = f" of {float(end * self._video.time_base):.1f}" if end and end > self._seen.end else ""
        frames = f"{self._seen.frames}{f' of {self._stored}' if self._stored else ''} frames"
        return f"{self._source} is cut short: {frames}, {until:.1f}{whole} s, could be read; the result ends there"


@dataclass
class _Seen:
    """What was read of a file so far.

    Attributes:
        packets, frames: of the video.
        torn: the file ended within a packet.
        broken: packets that could not be decoded.
        end, longest: of the frames, and the longest time between two, in units of the video's time base.
        sound_end: in seconds.
    """

    packets: int = 0
    torn: bool = False
    broken: int = 0
    frames: int = 0
    end: int = 0
    longest: int = 0
    sound_end: Fraction = Fraction(0)

    def frame(self, frame: Any, before: int | None) -> None:
        self.frames += 1
        self.end = frame.pts + (frame.duration or 0)
        self.longest = max(self.longest, frame.pts - before if before is not None else 0)

    def sound(self, packet: Any) -> None:
        if packet.pts is not None:
            self.sound_end = max(self.sound_end, (packet.pts + (packet.duration or 0)) * packet.time_base)


def display_matrix(frame: Any) -> np.ndarray | None:
    """Return how a decoded frame is to be turned and mirrored: ((a, b), (c, d)), which shows (x, y) at (ax + cy, bx + dy)."""
    found = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    return None if found is None else np.frombuffer(bytes(found), np.int32)[[0, 1, 3, 4]].reshape(2, 2)


def upright(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Return the pixels (height, width, 3) as `matrix` shows them, to the nearest quarter turn."""
    if matrix is None:
        return pixels
    if _swaps_axes(matrix):
        pixels, across, down = pixels.swapaxes(0, 1), matrix[1, 0], matrix[0, 1]
    else:
        across, down = matrix[0, 0], matrix[1, 1]
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _swaps_axes(matrix: np.ndarray) -> bool:
    (a, b), (c, d) = np.abs(matrix.astype(np.int64))
    return bool(b + c > a + d)


def open_container(source: Path) -> Any:
    """Return PyAV's container of a video file.

    Raises:
        InputError: the file cannot be read, or is a text.
    """
    av = pyav()
    try:
        container = av.open(xmp.as_url(source))
    except av.error.FFmpegError as error:
        raise InputError(
            f"{source}: the video cannot be read ({error.strerror}); it may be cut short, or of a kind that FFmpeg does "
            "not know"
        ) from None
    if container.format.name == _TEXT:
        container.close()
        raise InputError(f"{source} is a text; give a video, an animation or a folder of pictures")
    return container


def pyav() -> Any:
    """Return PyAV's module.

    Raises:
        InputError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(
            "video files need PyAV 14 or newer; install it with 'make setup', or give a folder of frames"
        ) from None
    return av
