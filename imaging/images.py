"""Image files to arrays and back: the one place where pixels are decoded, encoded and resized.

An image is a uint8 array (height, width, 3), RGB.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from imaging import xmp
from reverie import outputs
from reverie.errors import InputError

MIN_SIDE = 16
MAX_SIDE = 8192
"""An image with other sides is refused before its pixels are decoded."""
MAX_BYTES = 256 * 2**20
"""A larger file is refused unread; 8192x8192 pixels of noise are 201 MB."""

FORMATS = ("png", "jpeg", "webp")
ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Endings of file names, and the format that each means."""

_DRAFT = 1.5
"""A JPEG is decoded at a half, a quarter or an eighth if that leaves so many times the pixels a side asked for."""
_TO_8_BITS = {"L;2": 85, "L;4": 17}
"""What a gray of 2 or 4 bits is multiplied by to become one of 8."""
_STRIP = 256
"""Rows that are copied at once."""
FILMS = (".webp", ".gif", ".png")
"""Endings of a film; .png is an animated PNG."""

# `check_size` is stricter than Pillow's own limit, runs as early, and can name the size in its message.
Image.MAX_IMAGE_PIXELS = None


class ImageError(InputError):
    """The bytes are not an image that is accepted; the message says what is."""


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    Attributes:
        pixels: uint8 (height, width, 3), RGB; under transparent parts what the file has there.
        alpha: uint8 (height, width), 255 opaque; None where the file has no transparency.
        format: one of `FORMATS`, as the file.
        icc_profile: the file's color space, where it is one of RGB.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: str
    icc_profile: bytes | None = None

    def alpha_at(self, height: int, width: int) -> np.ndarray | None:
        """Return the transparency of the picture at another size."""
        return None if self.alpha is None else resize(self.alpha, height, width)


def decode(data: bytes, name: str = "image") -> np.ndarray:
    """Decode PNG, JPEG or WebP bytes, upright (EXIF) and without alpha (on white).

    Args and Raises: see `decode_picture`.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    picture = decode_picture(data, name)
    return picture.pixels if picture.alpha is None else on_white(picture.pixels, picture.alpha)


def decode_picture(data: bytes, name: str = "image", longest: int | None = None) -> Picture:
    """Decode PNG, JPEG or WebP bytes, upright (EXIF); of an animation the first frame.

    Grayscale, palette, CMYK and 16-bit files become 8-bit RGB.

    Args:
        data: the encoded file.
        name: what messages call the picture.
        longest: shrink until the longer side is at most this; cheaper than `fit_within` afterwards.

    Raises:
        ImageError: not an image, truncated, longer than `MAX_BYTES`, or with sides outside `MIN_SIDE` to
            `MAX_SIDE`, before or after shrinking.
    """
    height, width = measure(data, name)
    return _read(data, name, shrunk_size(height, width, longest or MAX_SIDE, name))


def measure(data: bytes, name: str = "image") -> tuple[int, int]:
    """Return (height, width) from the file's header, without decoding pixels.

    Raises:
        ImageError: as in `decode_picture`.
    """
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: {len(data)} bytes; accepted: files of at most {MAX_BYTES}")
    try:
        file = _open(data)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {len(data)} bytes that are not an image; accepted: {', '.join(FORMATS)}") from None
    except Exception as error:
        raise _undecodable(name, error) from None
    check_size(file.height, file.width, name)
    return file.height, file.width


def check_size(height: int, width: int, name: str = "image") -> None:
    """Raise ImageError unless an image of this size is accepted."""
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        raise ImageError(f"{name}: {width}x{height} pixels; accepted: sides of {MIN_SIDE} to {MAX_SIDE}")


def check_pixels(image: np.ndarray, name: str = "image") -> None:
    """Raise ImageError unless it is uint8 (height, width, 3): no other type, no NaN, can be in a picture."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"{name}: {image.dtype} {image.shape}; accepted: uint8 (height, width, 3), RGB")


def read(path: Path) -> np.ndarray:
    """Read and decode a picture file; see `decode`.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ImageError: there is no such file, or see `decode_picture`.

    Example:
        >>> small = fit_within(read(Path("photo.jpg")), longest=640)
    """
    return decode(_bytes_of(path), path.name)


def read_picture(path: Path) -> Picture:
    """Read and decode a picture file with its transparency and color space; see `decode_picture`."""
    return decode_picture(_bytes_of(path), path.name)


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file; give a picture ({', '.join(FORMATS)})")
    return path.read_bytes()


def encode(
    image: np.ndarray,
    format: str = "png",
    quality: int = 92,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    packet: bytes = b"",
) -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        image: uint8 (height, width, 3).
        format: one of `FORMATS`.
        quality: 1 to 100, of jpeg and webp.
        alpha: uint8 (height, width); jpeg, which has none, gets the picture on white.
        icc_profile: the color space of `image`; None for sRGB.
        packet: XMP, see `imaging.provenance`; empty for none.

    Returns:
        The file's bytes.

    Example:
        >>> Path("painted.jpg").write_bytes(encode(image, "jpeg", quality=90))
    """
    if alpha is not None and format == "jpeg":
        image, alpha = on_white(image, alpha), None
    picture = Image.fromarray(image)
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    buffer = io.BytesIO()
    picture.save(
        buffer, format=format, icc_profile=icc_profile, **_options(format, quality), **_with_packet(format, packet)
    )
    return buffer.getvalue()


def _with_packet(format: str, packet: bytes) -> dict[str, Any]:
    """Pillow's options for a file with this XMP packet."""
    if not packet or format == "gif":
        return {}
    if format != "png":
        return {"xmp": packet}
    chunk = PngInfo()
    chunk.add_itxt("XML:com.adobe.xmp", packet.decode())
    return {"pnginfo": chunk}


def _options(format: str, quality: int) -> dict[str, Any]:
    """Measured on restyled photographs: run lengths take half the time of zlib's matches and make PNG a little
    smaller; WebP's method 2 takes half the time of its 4 for 0.1 dB.
    """
    return {
        "png": {"compress_level": 1, "compress_type": zlib.Z_RLE},
        "jpeg": {"quality": quality},
        "webp": {"quality": quality, "method": 2},
    }[format]


def on_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite uint8 (height, width, 3) on white through `alpha`, uint8 (height, width)."""
    white = Image.new("RGB", (image.shape[1], image.shape[0]), "white")
    white.paste(Image.fromarray(image), mask=Image.fromarray(alpha))
    return _to_array(white)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample a picture to another size with Lanczos filtering.

    Args:
        image: uint8 (rows, columns, 3) or (rows, columns).
        height, width: of the result, in pixels.

    Returns:
        uint8 (height, width, 3) or (height, width).
    """
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def write_film(
    frames: Sequence[np.ndarray],
    path: Path,
    frames_per_second: float = 10.0,
    packet: bytes = b"",
    icc_profile: bytes | None = None,
) -> None:
    """Write uint8 frames of one size as an endless animation, with an XMP packet unless it is empty.

    Args:
        icc_profile: the color space of the frames; None for sRGB. GIF has no place for one.

    Raises:
        ImageError: no frames, or an ending that is not one of `FILMS`.
        OutputError: the file cannot be written.
    """
    if not frames or path.suffix.lower() not in FILMS:
        raise ImageError(f"{path.name}: a film of {len(frames)} frames; accepted: 1 or more, as {', '.join(FILMS)}")
    first, *others = [Image.fromarray(frame) for frame in frames]
    milliseconds = round(1000 / frames_per_second)
    format, buffer = path.suffix.lower().removeprefix("."), io.BytesIO()
    options: dict[str, Any] = {"append_images": others, "duration": milliseconds, "loop": 0, "quality": 85}
    options |= {"icc_profile": icc_profile} if icc_profile else {}
    first.save(buffer, format, save_all=True, **options, **_with_packet(format, packet))
    data = buffer.getvalue()
    outputs.write(path, xmp.in_gif(data, packet) if packet and format == "gif" else data)


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


def shrunk_size(height: int, width: int, longest: int, name: str = "image", largest: int = MAX_SIDE) -> tuple[int, int]:
    """Return `size_within`, and refuse a picture that becomes too narrow for the networks.

    Args:
        largest: what `longest` may be; messages recommend no larger one.

    Raises:
        ImageError: its shorter side would be below `MIN_SIDE`.
    """
    small = size_within(height, width, longest)
    if min(small) < MIN_SIDE:
        least = math.ceil((MIN_SIDE - 0.5) * max(height, width) / min(height, width))
        advice = f"a size of at least {least}, or " if least <= largest else ""
        raise ImageError(
            f"{name}: {width}x{height} pixels become {small[1]}x{small[0]} at size {longest}; accepted: sides of at "
            f"least {MIN_SIDE} then; give {advice}a picture that is less narrow"
        )
    return small


def fit_within(image: np.ndarray, longest: int) -> np.ndarray:
    """Shrink a picture until its longer side is at most `longest` pixels; a smaller one stays as it is."""
    height, width = image.shape[:2]
    size = size_within(height, width, longest)
    return image if size == (height, width) else resize(image, *size)


def size_within(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return (height, width) in pixels, shrunk so that the longer one is at most `longest`."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Round and clip float pixels in [0, 255] to uint8."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS])


def _read(data: bytes, name: str, size: tuple[int, int]) -> Picture:
    """Decode to `size` (height, width, as stored); only Pillow's own calls stand inside the `try`."""
    try:
        file = _open(data)
        format = "jpeg" if file.format == "MPO" else str(file.format).lower()  # Some phones put two JPEGs in one file.
        profile = file.info.get("icc_profile") if file.mode in ("RGB", "RGBA", "P") else None
        file.draft(file.mode, (round(size[1] * _DRAFT), round(size[0] * _DRAFT)))
        image = _to_rgb(file)
        if image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.LANCZOS)
        ImageOps.exif_transpose(image, in_place=True)
    # A damaged file can make Pillow's readers raise nearly anything.
    except Exception as error:
        raise _undecodable(name, error) from None
    alpha = np.asarray(image.getchannel("A")) if image.mode == "RGBA" else None
    return Picture(_to_array(image), None if alpha is None or alpha.min() == 255 else alpha, format, profile)


def _to_rgb(file: Image.Image) -> Image.Image:
    """Decode as RGB, or RGBA where the file has transparency."""
    if file.mode.startswith("I"):  # 16-bit grayscale, which Pillow's conversion would clip.
        return _from_16_bits(np.asarray(file), file.info.get("transparency"))
    if isinstance(file, PngImageFile) and "transparency" in file.info:
        file.info["transparency"] = _in_8_bits(file.info["transparency"], file.tile[0].args if file.tile else "")
    return file.convert("RGBA" if file.has_transparency_data else "RGB")


def _from_16_bits(grays: np.ndarray, transparent: int | None) -> Image.Image:
    """Args: `transparent`: the gray that stands for nothing; None where there is none."""
    image = Image.fromarray((grays >> 8).astype(np.uint8)).convert("RGB")
    if transparent is not None:
        image.putalpha(Image.fromarray(np.where(grays == transparent, 0, 255).astype(np.uint8)))
    return image


def _in_8_bits(transparent: Any, stored: object) -> Any:
    """A PNG's transparent color in the bits that Pillow decodes to: it gives that of the file.

    Args:
        stored: Pillow's name for the bits in the file. Of 16-bit RGB it decodes the upper halves only.
    """
    if stored == "RGB;16B":
        return tuple(value >> 8 for value in transparent)
    return transparent * _TO_8_BITS.get(str(stored), 1) if isinstance(transparent, int) else transparent


def _to_array(image: Image.Image) -> np.ndarray:
    """Red, green and blue of an image, in strips: in one piece Pillow takes the memory twice more."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        pixels[top : top + _STRIP] = np.asarray(strip)[..., :3]
    return pixels


def _undecodable(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name}: the image cannot be decoded ({error}); accepted: whole {', '.join(FORMATS)} files")
