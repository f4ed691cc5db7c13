"""Open what can be read as a film: video files, animated pictures and folders of pictures.

Knows nothing of what is done with the frames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image

from imaging import images
from imaging.video.film import Film
from imaging.video.pictures import Animation, PictureFolder
from imaging.video.video_file import VideoFile, open_container
from reverie.errors import InputError


@contextlib.contextmanager
def open_film(source: Path, frames_per_second: Fraction) -> Iterator[Film]:
    """Open a video file, an animated picture or a folder of pictures as a film.

    Args:
        frames_per_second: of a folder of pictures.

    Raises:
        InputError: the source cannot be read, or PyAV is not installed.
    """
    if source.is_dir():
        yield PictureFolder(source, frames_per_second)
    elif is_animation(source):
        with Image.open(source) as file:
            yield Animation(source, file)
    else:
        with open_container(source) as container:
            yield VideoFile(source, container)


def is_still(source: Path) -> bool:
    """Return whether a file is a picture that `stylize` takes: PNG, JPEG or WebP, by its contents. It may be animated."""
    return _picture_frames(source, [format.upper() for format in images.FORMATS]) > 0


def is_animation(source: Path) -> bool:
    """Return whether a file is a GIF, or a PNG or WebP picture of several frames."""
    return _picture_frames(source, ["GIF"]) > 0 or _picture_frames(source, ["PNG", "WEBP"]) > 1


def can_be_read(source: Path) -> bool:
    """Return whether a file can be read as a film, the first frame at least."""
    try:
        with open_film(source, Fraction(1)):
            return True
    except InputError:
        return False


def _picture_frames(source: Path, formats: list[str]) -> int:
    # A damaged file can make Pillow's readers raise nearly anything.
    with contextlib.suppress(Exception), Image.open(source, formats=formats) as file:
        return getattr(file, "n_frames", 1)
    return 0
