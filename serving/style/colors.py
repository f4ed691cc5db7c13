"""What is done with the network's picture: the photograph's own colours, and how strong the style is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from synthesis import images
from synthesis.colors import with_colors_of

_STRIP = 512
"""Rows that are worked on at once, which bounds memory."""


def mix(photo: np.ndarray, stylized: np.ndarray, strength: float, preserve_colors: bool) -> np.ndarray:
    """photo + strength * (stylized - photo), the colours of `stylized` first replaced where asked.

    Args:
        photo: uint8 (height, width, 3), as is `stylized` and the result.
        strength: 0 to 1.
        preserve_colors: keep the lightness of `stylized` and the chroma of `photo`; see `synthesis.colors`.
    """
    if strength == 1 and not preserve_colors:
        return stylized
    mixed = np.empty_like(photo)
    for top in range(0, len(photo), _STRIP):
        rows = slice(top, top + _STRIP)
        below, above = photo[rows], stylized[rows]
        above = images.to_uint8(with_colors_of(above, below)) if preserve_colors else above
        mixed[rows] = np.asarray(Image.blend(Image.fromarray(below), Image.fromarray(above), strength))
    return mixed
