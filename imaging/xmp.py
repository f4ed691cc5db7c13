"""XMP packets in files: where each kind of picture and video keeps its one, and how it is put there.

A packet is UTF-8 XML (ISO 16684-1); PNG, JPEG and WebP files get theirs from Pillow when they are encoded, see
`imaging.images`. Files that are read may be hostile: no more is read than a packet may have, and nothing is decoded.
Knows nothing of what packets say.
"""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from reverie.errors import InputError

MAX_PACKET = 2**20
"""Bytes; a larger packet is refused."""
MAX_IN_JPEG = 65_000
"""Bytes of a packet that fits into one segment of a JPEG file."""
BOXED = (".mp4", ".m4v", ".mov")
"""Endings of videos that are made of boxes."""
MATROSKA_TAG = "XMP"

_UUID = uuid.UUID("BE7ACFCB-97A9-42E8-9C71-999491E3AFAC").bytes
"""The UUID of the box that holds XMP in a video (XMP specification, part 3)."""
_MAX_BOXES = 10_000
_GIF_EXTENSION = b"\x21\xff\x0bXMP DataXMP"
_GIF_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
"""However a reader that does not know the extension skips what it takes for blocks, it ends up behind it."""
_MAX_FILE = 256 * 2**20
"""Bytes of a picture; the pictures that are accepted elsewhere have no more."""


def find(path: Path) -> bytes:
    """Return the XMP packet of a PNG, JPEG, WebP, GIF, MP4, MOV or Matroska file; empty if it has none.

    Raises:
        InputError: there is no such file, it is of another kind or damaged, or the packet is longer than `MAX_PACKET`.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a picture or a video")
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            packet = _in_boxes(file)
        elif head.startswith(b"GIF8"):
            packet = _in_gif(file)
        elif head.startswith(b"\x1a\x45\xdf\xa3"):
            packet = _in_matroska(path)
        else:
            packet = in_picture(file.read(_MAX_FILE + 1), str(path))
    if len(packet) > MAX_PACKET:
        raise InputError(f"{path}: an XMP packet of {len(packet)} bytes; accepted: at most {MAX_PACKET}")
    return packet


def in_picture(data: bytes, name: str = "image") -> bytes:
    """Return the packet of an encoded PNG, JPEG or WebP picture; empty if it has none.

    Raises:
        InputError: it is no such picture, or damaged.
    """
    if len(data) > _MAX_FILE:
        raise InputError(f"{name}: more than {_MAX_FILE} bytes; accepted: pictures of at most so many")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as picture:
            return picture.info.get("xmp") or b""
    # A damaged file can make Pillow's readers raise nearly anything.
    except Exception as error:
        raise InputError(
            f"{name}: it cannot be read ({error}); accepted: png, jpeg, webp, gif, mp4, mov and mkv files"
        ) from None


def append_box(path: Path, packet: bytes) -> None:
    """Put a packet at the end of a finished MP4 or MOV file."""
    with path.open("ab") as file:
        file.write((24 + len(packet)).to_bytes(4, "big") + b"uuid" + _UUID + packet)


def in_gif(data: bytes, packet: bytes) -> bytes:
    """Return the GIF file `data` with a packet, in front of its first picture."""
    flags = data[10]
    colors_end = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    extension = _GIF_EXTENSION + packet + _GIF_TRAILER
    return b"GIF89a" + data[6:colors_end] + extension + data[colors_end:]  # GIF87a has no extensions.


def _in_boxes(file: BinaryIO) -> bytes:
    """Return the content of the first box in the file that has XMP's UUID."""
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        header = 16 if size == 1 else 8
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < header:  # The end of the file, a box that lasts until there, or damage.
            return b""
        file.seek(start + header)
        if name == b"uuid" and file.read(16) == _UUID:
            return file.read(min(size - header - 16, MAX_PACKET + 1))
        start += size
    return b""


def _in_gif(file: BinaryIO) -> bytes:
    _, extension, rest = file.read(_MAX_FILE).partition(_GIF_EXTENSION)
    packet, trailer, _ = rest[: MAX_PACKET + len(_GIF_TRAILER)].partition(_GIF_TRAILER)
    return packet if extension and trailer else b""


def as_url(path: Path) -> str:
    """Return a path as a URL for FFmpeg. Without "file:" FFmpeg takes what is before a colon for a protocol."""
    return f"file:{path}"


def _in_matroska(path: Path) -> bytes:
    try:
        import av

        with av.open(as_url(path)) as container:
            return container.metadata.get(MATROSKA_TAG, "").encode()
    except ModuleNotFoundError:
        raise InputError(f"{path}: Matroska files need PyAV 14 or newer; install it with 'make setup'") from None
    except (av.error.FFmpegError, UnicodeError) as error:
        raise InputError(f"{path}: the video cannot be read ({error})") from None
