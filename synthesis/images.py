"""Image files to arrays and back: the one place where pixels are decoded, encoded and resized.

An image is a uint8 array (height, width, 3), RGB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from synthesis.errors import InputError

MIN_SIDE = 16
MAX_SIDE = 8192
MAX_PIXELS = 40_000_000
"""Above these an image is refused before its pixels are decoded."""

FORMATS = ("png", "jpeg", "webp")
FILMS = (".webp", ".gif", ".png")
"""Endings of a film; .png is an animated PNG."""

# `check_size` is stricter than Pillow's own limit, runs as early, and can name the size in its message.
Image.MAX_IMAGE_PIXELS = None


class ImageError(InputError):
    """The bytes are not an image that is accepted; the message says what is."""


def decode(data: bytes, name: str = "image") -> np.ndarray:
    """Decode PNG, JPEG or WebP bytes, upright (EXIF) and without alpha (on white).

    Args:
        data: the encoded file.
        name: how messages call it.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ImageError: not an image, truncated, or outside `MIN_SIDE`, `MAX_SIDE`, `MAX_PIXELS`.
    """
    try:
        file = Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS])
        check_size(file.height, file.width, name)
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {len(data)} bytes that are not an image; accepted: {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        raise ImageError(
            f"{name}: the image cannot be decoded ({error}); accepted: whole {', '.join(FORMATS)} files"
        ) from None


def check_size(height: int, width: int, name: str = "image") -> None:
    """Raise ImageError unless an image of this size is accepted."""
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} pixels; accepted: sides of {MIN_SIDE} to {MAX_SIDE}, at most {MAX_PIXELS} pixels"
        )


def check_pixels(image: np.ndarray, name: str = "image") -> None:
    """Raise ImageError unless it is uint8 (height, width, 3): no other type, no NaN, can be in a picture."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"{name}: {image.dtype} {image.shape}; accepted: uint8 (height, width, 3), RGB")


def read(path: Path) -> np.ndarray:
    """Decode a file; see `decode`."""
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file; give a picture ({', '.join(FORMATS)})")
    return decode(path.read_bytes(), path.name)


def encode(image: np.ndarray, format: str = "png", quality: int = 92) -> bytes:
    """Encode uint8 (height, width, 3) as `format`, one of `FORMATS`; `quality` is for jpeg and webp."""
    buffer = io.BytesIO()
    options = {"compress_level": 1} if format == "png" else {"quality": quality}
    Image.fromarray(image).save(buffer, format=format, **options)
    return buffer.getvalue()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample with Lanczos filtering."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def write_film(frames: Sequence[np.ndarray], path: Path, frames_per_second: float = 10.0) -> None:
    """Write uint8 frames of one size as an endless animation.

    Raises:
        ImageError: no frames, or an ending that is not one of `FILMS`.
    """
    if not frames or path.suffix.lower() not in FILMS:
        raise ImageError(f"{path.name}: a film of {len(frames)} frames; accepted: 1 or more, as {', '.join(FILMS)}")
    first, *others = [Image.fromarray(frame) for frame in frames]
    milliseconds = round(1000 / frames_per_second)
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=85)


def resize_float(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample float or uint8 pixels without rounding or clipping them; float64 (height, width, channels)."""
    if pixels.shape[:2] == (height, width):
        return pixels.astype(np.float64)
    channels = [
        Image.fromarray(np.ascontiguousarray(pixels[..., i], np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for i in range(pixels.shape[2])
    ]
    return np.stack([np.asarray(channel, np.float64) for channel in channels], axis=-1)


def fit_within(image: np.ndarray, longest: int) -> np.ndarray:
    """Shrink so that the longer side is at most `longest`; smaller images stay as they are."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    return image if scale >= 1 else resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Round and clip float pixels in [0, 255] to uint8."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
