"""What `reverie stylize` makes of its source: a picture, a video or a folder of frames, as the names say."""

from __future__ import annotations

import mimetypes
from fractions import Fraction
from pathlib import Path
from typing import Literal

import typer

from imaging.images import ENDINGS
from imaging.video.reader import can_be_read, is_animation, is_still
from imaging.video.writer import VIDEOS

_VIDEOS, _PICTURES = ", ".join(VIDEOS), ", ".join(ENDINGS)


def kind_of_result(source: Path, output: Path) -> Literal["picture", "video", "folder"]:
    """What `stylize` makes of `source`: what the names say, where that can be done.

    Raises:
        typer.BadParameter: it cannot; says what of this source can be made.
    """
    is_video = output.suffix.lower() in VIDEOS and not output.is_dir()
    if not source.exists():
        raise typer.BadParameter(f"there is no file {source}", param_hint="SOURCE")
    if source.is_dir():
        return "video" if is_video else _folder_for(source, output)
    is_picture = source.suffix.lower() in ENDINGS or is_still(source)
    if is_video and is_picture and not is_animation(source):
        raise _no_result(output, f"{source} is a picture, of which comes a picture: {_PICTURES}")
    if is_video or is_picture:
        return "video" if is_video else "picture"
    if can_be_read(source):
        raise _no_result(output, f"{source} is read as a video, of which comes a video: {_VIDEOS}")
    raise typer.BadParameter(
        f"{source} is neither a picture that is read (PNG, JPEG, WebP) nor a video", param_hint="SOURCE"
    )


def _folder_for(source: Path, output: Path) -> Literal["folder"]:
    """Nobody means a folder by "out.png", unless it is one."""
    is_named_as_a_file = (mimetypes.guess_type(output.name)[0] or "").startswith(("image/", "video/"))
    if is_named_as_a_file and not output.is_dir():
        raise _no_result(output, f"{source} is a folder of frames, of which come a folder or a video: {_VIDEOS}")
    return "folder"


def frame_rate(fps: float) -> Fraction:
    """Frames a second as the fraction that a video file holds.

    Raises:
        typer.BadParameter: not 0.1 to 240.
    """
    if not 0.1 <= fps <= 240:
        raise typer.BadParameter(f"{fps:g}; accepted: 0.1 to 240", param_hint="--fps")
    return Fraction(fps).limit_denominator(1001)


def _no_result(output: Path, what_comes: str) -> typer.BadParameter:
    return typer.BadParameter(f"{what_comes}; {output.name} ends in {output.suffix!r}", param_hint="OUTPUT")
