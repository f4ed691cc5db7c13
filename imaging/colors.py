"""Colors apart from brightness: to paint in luminance only, and to start from a painting's colors.

Luminance and chroma are those of JPEG's YCbCr (ITU-R BT.601).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from imaging import images

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_STRIP = 512
"""Rows that are worked on at once, which bounds memory."""


def luminance(image: np.ndarray) -> np.ndarray:
    """Return the picture in gray: uint8 (height, width, 3), all channels alike."""
    gray = np.rint(image.astype(np.float32) @ _LUMINANCE)
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)


def with_colors_of(pixels: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Return the luminance of `pixels` under the chroma of `photo`.

    Args:
        pixels: float (height, width, 3) in [0, 255]; values outside are clipped by whoever makes a uint8.
        photo: uint8 of the same size.

    Returns:
        float32 (height, width, 3). Adding the same gray to red, green and blue keeps YCbCr's chroma.
    """
    photo = photo.astype(np.float32)
    change = (np.asarray(pixels, np.float32) - photo) @ _LUMINANCE
    return photo + change[..., None]


def mix(photo: np.ndarray, stylized: np.ndarray, strength: float, preserve_colors: bool) -> np.ndarray:
    """Return photo + strength * (stylized - photo), in the colors of `photo` where `preserve_colors` is set.

    Args:
        photo: uint8 (height, width, 3), as is `stylized` and the result.
        strength: 0 to 1.
        preserve_colors: take the lightness of `stylized` and the chroma of `photo`.
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


def match_colors(image: np.ndarray, palettes: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return `image` with the mean and covariance of color that `palettes` have on a weighted average.

    The linear optimal transport between two normal distributions (as in Gatys et al. 2017, section 3.1).

    Args:
        image: float or uint8 (height, width, 3).
        palettes: pictures of any size.
        weights: (len(palettes),), of sum 1.

    Returns:
        float64 (height, width, 3), not clipped.
    """
    colors = image.reshape(-1, 3).astype(np.float64)
    targets = [p.reshape(-1, 3).astype(np.float64) for p in palettes]
    mean = sum(w * p.mean(0) for w, p in zip(weights, targets, strict=True))
    covariance = sum(w * np.cov(p.T) for w, p in zip(weights, targets, strict=True))
    root, inverse = _power(np.cov(colors.T), 0.5), _power(np.cov(colors.T), -0.5)
    transport = inverse @ _power(root @ covariance @ root, 0.5) @ inverse
    return ((colors - colors.mean(0)) @ transport.T + mean).reshape(image.shape)


def _power(symmetric: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    # A gray picture has no variance along two axes; the floor keeps its inverse finite.
    return (vectors * np.maximum(values, 1.0) ** exponent) @ vectors.T
