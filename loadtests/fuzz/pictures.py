"""Picture files that an app might send by accident, and that an attacker would send on purpose."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from loadtests.endpoints import photograph

_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "I;16", "1"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P",),
    "TIFF": ("RGB", "F"),
    "BMP": ("RGB",),
}
_SIDES = (1, 2, 15, 16, 17, 31, 48, 64, 96)


def picture(rng: random.Random) -> bytes:
    """Draw a file: readable in most cases, else damaged."""
    if rng.random() < 0.05:
        return bomb(*rng.choice(((65_535, 65_535), (1, 2**31 - 1), (100_000, 20_000), (0, 16))))
    data = whole(rng.choice(list(_MODES)), rng.randrange(7), rng.choice(_SIDES), rng.choice(_SIDES), rng.randrange(10))
    return data if rng.random() < 0.6 else damaged(data, rng)


@functools.lru_cache(maxsize=4096)
def whole(kind: str, mode: int, height: int, width: int, orientation: int) -> bytes:
    """Return a readable file of format `kind`, in one of its pixel formats; an `orientation` from 1 on stands in its EXIF data."""
    pixels = photograph(32 * (height // 32 + 1), 32 * (width // 32 + 1), seed=mode)[:height, :width]
    wanted = _MODES[kind][mode % len(_MODES[kind])]
    if wanted == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(wanted)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, **({"exif": exif} if orientation and kind in ("JPEG", "PNG", "WEBP") else {}))
    return file.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` cut off, with bytes changed, inserted or repeated, or replaced by others."""
    place = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 4, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 2:
        return data[:place] + rng.randbytes(rng.randrange(1, 64)) + data[place:]
    if kind == 3:
        return data[place:] + data[:place]
    if kind == 4:
        return data + data
    return rng.choice((b"", b"\0", b"GIF89a", b"<svg/>", b"%PDF-1.4", rng.randbytes(rng.randrange(1, 256))))


def bomb(height: int, width: int) -> bytes:
    """Return a PNG of a few bytes that says it is `height` by `width` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
