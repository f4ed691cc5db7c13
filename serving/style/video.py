"""A restyled video, or folder of frames, frame by frame through a running server, with less flicker and its audio.

Video files are read and written with PyAV; folders of frames do without. What a restyled frame says in its XMP of how
it was made, the whole video says.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving.style.flicker import Smoother
from synthesis import images, xmp
from synthesis.errors import InputError

VIDEOS = (".mp4", ".mov", ".mkv", ".m4v")
AHEAD = 3
"""Frames that are with the server at once, so that it decodes and encodes while its network works."""

Restyle = Callable[[bytes], bytes]
"""Encoded picture to encoded picture, both of the same size or the second smaller."""
OnFrame = Callable[[int, int | None], None]
"""Told how many frames are done, of how many, if that is known."""
T = TypeVar("T")


def stylize_folder(source: Path, target: Path, restyle: Restyle, on_frame: OnFrame, smooth: bool = True) -> None:
    """Restyle the pictures of a folder, in the order of their names' numbers, into files of the same names.

    Raises:
        InputError: `source` holds no pictures.
    """
    paths = sorted(
        (p for p in source.iterdir() if p.is_file() and p.suffix.lower() in images.ENDINGS), key=_natural_order
    )
    if not paths:
        raise InputError(f"{source} holds no frames; accepted: files ending in {', '.join(images.ENDINGS)}")
    target.mkdir(parents=True, exist_ok=True)
    marked = Marked(restyle)
    painted = paint(map(images.read, paths), marked, smooth)
    for done, (path, frame) in enumerate(zip(paths, painted, strict=True), 1):
        encoded = images.encode(frame, images.ENDINGS[path.suffix.lower()], quality=95, packet=marked.packet)
        (target / path.name).write_bytes(encoded)
        on_frame(done, len(paths))


def stylize_video(source: Path, target: Path, restyle: Restyle, on_frame: OnFrame, smooth: bool = True) -> None:
    """Restyle a video file as H.264; its first audio stream is copied as it is.

    Raises:
        InputError: PyAV is not installed, or it cannot read `source`.
    """
    av = _pyav()
    try:
        # Bit-exact: Matroska files would else have a random number of their own.
        options = {"fflags": "+bitexact"}
        with av.open(xmp.as_url(source)) as reader, av.open(xmp.as_url(target), "w", options=options) as writer:
            if not reader.streams.video:
                raise InputError(f"{source} has no video stream")
            transcoder, marked = _Transcoder(reader, writer), Marked(restyle)
            for done, frame in enumerate(paint(transcoder.frames(), marked, smooth), 1):
                if done == 1 and marked.packet and target.suffix.lower() not in xmp.BOXED:
                    writer.metadata[xmp.MATROSKA_TAG] = marked.packet.decode()  # Before the header is written.
                transcoder.write(frame)
                on_frame(done, transcoder.frame_count)
            transcoder.close()
        if marked.packet and target.suffix.lower() in xmp.BOXED:
            xmp.append_box(target, marked.packet)
    except av.error.FFmpegError as error:
        raise InputError(f"{source}: the video cannot be read or written ({error})") from None


class Marked:
    """`restyle`, remembering the XMP packet of what it returned."""

    def __init__(self, restyle: Restyle):
        self._restyle = restyle
        self.packet = b""

    def __call__(self, data: bytes) -> bytes:
        restyled = self._restyle(data)
        self.packet = self.packet or xmp.in_picture(restyled)
        return restyled


def paint(frames: Iterable[np.ndarray], restyle: Restyle, smooth: bool = True) -> Iterator[np.ndarray]:
    """Restyled frames, uint8 (height, width, 3), in order."""
    smoother = Smoother()
    for frame, painted in _in_parallel(frames, lambda frame: images.decode(restyle(images.encode(frame)))):
        own_size = images.resize(frame, *painted.shape[:2]) if frame.shape != painted.shape else frame
        yield smoother(own_size, painted) if smooth else painted


class _Transcoder:
    """From one open PyAV container to another: frames out of it, restyled frames in, sound straight through."""

    def __init__(self, reader: Any, writer: Any):
        self.frame_count: int | None = reader.streams.video[0].frames or None
        self._video, self._audio = reader.streams.video[0], next(iter(reader.streams.audio), None)
        self._reader, self._writer = reader, writer
        self._output = writer.add_stream("libx264", rate=self._video.average_rate or 25, options={"crf": "18"})
        self._output.pix_fmt = "yuv420p"
        self._copied = writer.add_stream_from_template(self._audio) if self._audio else None
        self._times: deque[tuple[int | None, Fraction]] = deque()
        self._sound: deque[Any] = deque()

    def frames(self) -> Iterator[np.ndarray]:
        """Decoded frames, upright; notes when each is shown, and keeps the sound that lies between."""
        for packet in self._reader.demux([stream for stream in (self._video, self._audio) if stream]):
            if packet.stream is self._audio:
                self._sound += [packet] if packet.dts is not None else []  # A packet without data ends the stream.
                continue
            for frame in packet.decode():
                self._times.append((frame.pts, frame.time_base))
                turns = round(getattr(frame, "rotation", 0) / 90)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))

    def write(self, frame: np.ndarray) -> None:
        """The next restyled frame; the first one decides the size."""
        height, width = (side // 2 * 2 for side in frame.shape[:2])  # H.264 halves the colours' resolution.
        picture = _pyav().VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        picture.pts, picture.time_base = self._times.popleft()
        if not self._output.codec_context.is_open:
            self._output.height, self._output.width = height, width
            self._output.codec_context.time_base = picture.time_base
        self._mux(self._output.encode(picture))

    def close(self) -> None:
        """What the encoder still holds, and the rest of the sound."""
        self._mux(self._output.encode(None))

    def _mux(self, packets: list[Any]) -> None:
        """Pictures, then sound: the first packet writes the file's header, which needs the pictures' size."""
        self._writer.mux(packets)
        while self._sound:
            packet = self._sound.popleft()
            packet.stream = self._copied
            self._writer.mux(packet)


def _in_parallel(items: Iterable[np.ndarray], function: Callable[[np.ndarray], T]) -> Iterator[tuple[np.ndarray, T]]:
    """Each item and its result, in order, with `AHEAD` calls running."""
    waiting: deque[tuple[np.ndarray, Future[T]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > AHEAD:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()


def _natural_order(path: Path) -> list[Any]:
    """frame2 before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise InputError(
            "video files need PyAV 14 or newer; install it with 'make setup', or give a folder of frames"
        ) from None
    return av
