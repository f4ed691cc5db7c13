"""Films that Pillow reads: folders of pictures and animated pictures."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from imaging import images
from imaging.video.film import Frame, Look
from reverie.errors import InputError

_MILLISECOND = Fraction(1, 1000)
_UNSAID_MS = 100
"""A frame of an animation that says at most 10 ms is shown for so long, in browsers too."""


class PictureFolder:
    """The pictures of a folder, in the order of their names' numbers, all shown equally long.

    Raises:
        InputError: there are none, or they differ in size.
    """

    def __init__(self, folder: Path, frames_per_second: Fraction):
        self._paths = pictures_of(folder)
        self._check_sizes()
        self.look = Look(1 / frames_per_second, frames_per_second)
        self.frame_count: int | None = len(self._paths)
        self.sound: Any = None
        self.sound_packets: deque[Any] = deque()
        self.damage = ""

    def frames(self) -> Iterator[Frame]:
        for number, path in enumerate(self._paths):
            yield Frame(images.read(path), number, 1)

    def _check_sizes(self) -> None:
        first, *others = ((path, images.measure(path.read_bytes(), path.name)) for path in self._paths)
        for path, (height, width) in others:
            if (height, width) != first[1]:
                raise InputError(
                    f"{path}: {width}x{height} pixels, and {first[0].name} has {first[1][1]}x{first[1][0]}; a video's "
                    f"frames are of one size; give a folder to write them into instead"
                )


def pictures_of(folder: Path) -> list[Path]:
    """Return the pictures in a folder, frame2 before frame10.

    Raises:
        InputError: there are none.
    """
    paths = sorted(
        (p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in images.ENDINGS), key=_natural_order
    )
    if not paths:
        raise InputError(f"{folder} holds no frames; accepted: files ending in {', '.join(images.ENDINGS)}")
    return paths


def _natural_order(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


class Animation:
    """A GIF, or an animated PNG or WebP, once through; transparency is on white."""

    def __init__(self, source: Path, file: Any):
        images.check_size(file.height, file.width, source.name)
        self._source, self._file = source, file
        self._first = 1 if file.info.get("default_image") else 0  # For readers that know no animated PNG.
        self.frame_count: int | None = file.n_frames - self._first
        self.look = Look(_MILLISECOND, Fraction(1000, _shown_ms(file)))
        self.sound: Any = None
        self.sound_packets: deque[Any] = deque()
        self.damage = ""

    def frames(self) -> Iterator[Frame]:
        start, count = 0, self.frame_count or 0
        for number in range(count):
            try:
                self._file.seek(self._first + number)
                pixels = _on_white(self._file)
            # A damaged file can make Pillow's readers raise nearly anything.
            except Exception as error:
                self.damage = f"{self._source} is damaged: {number} of {count} frames could be read ({error})"
                return
            duration = _shown_ms(self._file)
            yield Frame(pixels, start, duration)
            start += duration


def _on_white(file: Any) -> np.ndarray:
    pixels = np.asarray(file.convert("RGBA"))
    return images.on_white(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]))


def _shown_ms(file: Any) -> int:
    milliseconds = round(file.info.get("duration") or 0)
    return milliseconds if milliseconds > 10 else _UNSAID_MS
