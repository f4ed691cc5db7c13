"""A restyled video, or folder of frames, frame by frame through a running server, with less flicker and its audio.

What a restyled frame says in its XMP of how it was made, the whole video says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np

from imaging import images, xmp
from imaging.video.film import Film
from imaging.video.flicker import Smoother
from imaging.video.pictures import pictures_of
from imaging.video.reader import open_film
from imaging.video.writer import VIDEOS, open_video
from reverie import outputs
from reverie.errors import InputError

AHEAD = 3
"""Frames that are with the server at once, so that it decodes and encodes while its network works."""
FRAMES_PER_SECOND = Fraction(25)
"""Of a video that is made of a folder's pictures."""

Restyle = Callable[[bytes], bytes]
"""Encoded picture to encoded picture, both of the same size or the second smaller."""
OnFrame = Callable[[int, int | None], None]
"""Told how many frames are done, of how many, if that is known."""
T = TypeVar("T")


def stylize_folder(source: Path, target: Path, restyle: Restyle, on_frame: OnFrame, smooth: bool = True) -> None:
    """Restyle the pictures of a folder, in the order of their names' numbers, into files of the same names.

    Each keeps its transparency, where its format has any, and its color profile.

    Raises:
        InputError: `source` holds no pictures.
        OutputError: `target` cannot be written, or is `source`.
    """
    paths = pictures_of(source)
    outputs.check_folder(target, [path.name for path in paths], [source])
    marked, sources = Marked(restyle), deque[images.Picture]()
    painted = paint(_pixels_of(paths, sources), marked, smooth)
    with outputs.replacing_folder(target) as folder:
        for done, (path, frame) in enumerate(zip(paths, painted, strict=True), 1):
            (folder / path.name).write_bytes(_encoded(frame, path, sources.popleft(), marked.packet))
            on_frame(done, len(paths))


def _pixels_of(paths: Iterable[Path], sources: deque[images.Picture]) -> Iterator[np.ndarray]:
    """Read files one by one; `sources` gets what each has beside its pixels."""
    for path in paths:
        picture = images.read_picture(path)
        sources.append(picture)
        yield picture.pixels


def _encoded(frame: np.ndarray, path: Path, source: images.Picture, packet: bytes) -> bytes:
    """A restyled frame as a file like its source, for the name `path`."""
    format, alpha = images.ENDINGS[path.suffix.lower()], source.alpha_at(*frame.shape[:2])
    return images.encode(frame, format, 95, alpha, source.icc_profile, packet)


def stylize_video(
    source: Path,
    target: Path,
    restyle: Restyle,
    on_frame: OnFrame,
    smooth: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    frames_per_second: Fraction = FRAMES_PER_SECOND,
) -> None:
    """Restyle a video as H.264, with the times, the shape of pixels, the colors and the first audio stream of `source`.

    Args:
        source: a video, an animated picture, or a folder of pictures of one size.
        target: a file with an ending of `VIDEOS`.
        tell: told in a sentence what a person should know: sound that is encoded anew, a source that is cut short.
        frames_per_second: of a folder's pictures.

    Raises:
        InputError: PyAV is not installed, `source` cannot be read, or `target` has another ending.
        OutputError: `target` cannot be written, or is `source`.
    """
    ending = target.suffix.lower()
    if ending not in VIDEOS:
        raise InputError(f"{target.name} ends in {target.suffix!r}; accepted: {', '.join(VIDEOS)}")
    outputs.check(target, [source])
    marked = Marked(restyle)
    with open_film(source, frames_per_second) as film, outputs.replacing(target) as unfinished:
        _write(film, unfinished, ending, marked, on_frame, smooth, tell)
        if marked.packet and ending in xmp.BOXED:
            xmp.append_box(unfinished, marked.packet)


def _write(
    film: Film,
    path: Path,
    ending: str,
    restyle: Marked,
    on_frame: OnFrame,
    smooth: bool,
    tell: Callable[[str], None],
) -> None:
    times: deque[tuple[int, int]] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in film.frames():
            times.append((frame.start, frame.duration))
            yield frame.pixels

    with open_video(path, ending, film.look, film.sound) as writer:
        if writer.change_of_sound:
            tell(writer.change_of_sound)
        for done, painted in enumerate(paint(pixels(), restyle, smooth), 1):
            if done == 1 and restyle.packet and ending not in xmp.BOXED:
                writer.say(restyle.packet)
            writer.write(painted, *times.popleft(), film.sound_packets)
            on_frame(done, film.frame_count)
        writer.close(film.sound_packets)
    if film.damage:
        tell(film.damage)


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
    """Yield restyled frames, uint8 (height, width, 3), in order."""
    smoother = Smoother()
    for frame, painted in _in_parallel(frames, lambda frame: images.decode(restyle(images.encode(frame)))):
        own_size = images.resize(frame, *painted.shape[:2]) if frame.shape != painted.shape else frame
        yield smoother(own_size, painted) if smooth else painted


def _in_parallel(items: Iterable[np.ndarray], function: Callable[[np.ndarray], T]) -> Iterator[tuple[np.ndarray, T]]:
    """Each item and its result, in order, with `AHEAD` calls running."""
    waiting: deque[tuple[np.ndarray, Future[T]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > AHEAD:
                    done, result = waiting.popleft()
                    yield done, result.result()
            for done, result in waiting:
                yield done, result.result()
        finally:  # Who ends early waits for the calls that run, but for no other.
            pool.shutdown(wait=False, cancel_futures=True)
