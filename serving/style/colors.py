"""What is done with the network's picture: the photograph's own colours, and how strong the style is."""

from __future__ import annotations

import numpy as np
from PIL import Image

_STRIP = 512
"""Rows that are worked on at once, which bounds memory."""


def mix(photo: np.ndarray, stylized: np.ndarray, strength: float, preserve_colors: bool) -> np.ndarray:
    """photo + strength * (stylized - photo), the colours of `stylized` first replaced where asked.

    Args:
        photo: uint8 (height, width, 3), as is `stylized` and the result.
        strength: 0 to 1.
        preserve_colors: keep the lightness (luma of YCbCr, ITU-R BT.601) of `stylized` and the chroma of `photo`.
    """
    if strength == 1 and not preserve_colors:
        return stylized
    mixed = np.empty_like(photo)
    for top in range(0, len(photo), _STRIP):
        rows = slice(top, top + _STRIP)
        below, above = Image.fromarray(photo[rows]), Image.fromarray(stylized[rows])
        above = _with_chroma_of(below, above) if preserve_colors else above
        mixed[rows] = np.asarray(Image.blend(below, above, strength))
    return mixed


def _with_chroma_of(photo: Image.Image, stylized: Image.Image) -> Image.Image:
    luma = stylized.convert("YCbCr").getchannel("Y")
    _, blue, red = photo.convert("YCbCr").split()
    return Image.merge("YCbCr", (luma, blue, red)).convert("RGB")
