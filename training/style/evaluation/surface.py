"""What a viewer sees on the surface of any picture: patterns and grain in flat areas, bands along the
borders, clipped values, and how calmly the painting follows a photograph that moves.

Pictures are uint8 (height, width, 3). Knows nothing about networks and styles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

Paint = Callable[[np.ndarray], np.ndarray]

BORDER = 16
"""Pixels of a band along a border, and what is left out around pictures that are compared after a shift."""
MIN_SIDE = 64
"""Pixels of the smallest picture whose two opposite borders, and something between them, can be told apart."""
MIRROR = 64
"""Pixels of mirror image around a photograph that has no border where the other has one."""
PLAIN_SIDE = 96
"""Of a flat area, in pixels: several periods of the patterns that networks make."""
PLAIN_DEVIATION = 6.0
"""The largest standard deviation, of 255, of a flat area around its plane of gray: skies, walls, fog."""

_INTERIOR = 48
"""Where a band's neighborhood ends, in pixels from the border."""
_STROKE = 6.0
"""Standard deviation in pixels of what is taken for the painting's light and dark, not for its pattern."""
_CENTER = 1 / np.e
"""The autocorrelation around zero shift that is one spot of the pattern, no repetition of it."""
_INVISIBLE = 1.0
"""Standard deviation, of 255, below which a pattern is none."""
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[..., None]


# The whole picture.


def clipped(picture: np.ndarray) -> float:
    """Return the share of values that are 0 or 255."""
    return float(np.mean((picture == 0) | (picture == 255)))


def border_bands(paint: Paint, photo: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Return how far each border departs from what is just inside it, for no other reason than being the border.

    The same is painted with the photograph's mirror image around it, where no border is; so what the photograph shows
    there, and how the style turns light and dark, is taken away.

    Args:
        painted: what `paint` makes of `photo`, whose sides are from `MIN_SIDE`.

    Returns:
        float64 (4 borders, 3 channels), of 255, signed: top, bottom, left, right.
    """
    mirrored = np.pad(photo, ((MIRROR, MIRROR), (MIRROR, MIRROR), (0, 0)), "reflect")
    borderless = paint(mirrored)[MIRROR:-MIRROR, MIRROR:-MIRROR]
    return _bands(painted) - _bands(borderless)


def _bands(picture: np.ndarray) -> np.ndarray:
    columns = picture.swapaxes(0, 1)
    return np.stack([_band(side) for side in (picture, picture[::-1], columns, columns[::-1])])


def _band(rows: np.ndarray) -> np.ndarray:
    return rows[:BORDER].mean(axis=(0, 1)) - rows[BORDER:_INTERIOR].mean(axis=(0, 1))


def shift_over_gradient(paint: Paint, photo: np.ndarray) -> float:
    """Return how much the painting changes when the photograph moves by one pixel, over its own change from pixel to pixel.

    0 for a painting that moves with the photograph, 1 for one that stays where it was, above 1 for one that is painted
    anew. Mean of both directions; a border of `BORDER` pixels is left out.
    """
    return float(np.mean([_shift_ratio(paint, photo, axis) for axis in (0, 1)]))


def _shift_ratio(paint: Paint, photo: np.ndarray, axis: int) -> float:
    first, second = (paint(part).astype(np.float32) for part in _without_ends(photo, axis))
    before, here = _without_ends(first, axis)
    moved, _ = _without_ends(second, axis)
    change, gradient = _inner_difference(here, moved), _inner_difference(here, before)
    return change / gradient if gradient else 0.0


def _without_ends(picture: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture without its last row or column, and without its first."""
    before = (slice(None),) * axis
    return picture[(*before, slice(None, -1))], picture[(*before, slice(1, None))]


def _inner_difference(a: np.ndarray, b: np.ndarray) -> float:
    inner = (slice(BORDER, -BORDER),) * 2
    return float(np.abs(a[inner] - b[inner]).mean())


# Flat areas.


@dataclass(frozen=True)
class Window:
    """A square of a picture, in pixels."""

    top: int
    left: int
    side: int = PLAIN_SIDE

    def of(self, picture: np.ndarray) -> np.ndarray:
        """Return the part of (height, width, 3) that is in it."""
        return picture[self.top : self.top + self.side, self.left : self.left + self.side]


def plain_window(photo: np.ndarray) -> Window | None:
    """Return the flattest square of a photograph, or None where none is flat (`PLAIN_DEVIATION`) or the picture is too small."""
    height, width = photo.shape[:2]
    step = PLAIN_SIDE // 4
    windows = [
        Window(top, left)
        for top in range(BORDER, height - BORDER - PLAIN_SIDE + 1, step)
        for left in range(BORDER, width - BORDER - PLAIN_SIDE + 1, step)
    ]
    deviation, flattest = min(
        ((_plain_deviation(window.of(photo)), window) for window in windows),
        key=lambda found: found[0],
        default=(np.inf, None),
    )
    return flattest if deviation <= PLAIN_DEVIATION else None


def _plain_deviation(area: np.ndarray) -> float:
    """Around the plane that fits its gray best: a sky that fades is as plain as one that does not."""
    gray = area.mean(axis=2)
    y, x = (np.linspace(-1, 1, side) for side in gray.shape)
    rows, columns = gray.mean(axis=1), gray.mean(axis=0)
    # On a grid the three directions of a plane are orthogonal, so each is fitted by itself.
    plane = gray.mean() + np.add.outer(y * (y @ rows) / (y @ y), x * (x @ columns) / (x @ x))
    return float(np.sqrt(np.mean((gray - plane) ** 2)))


def repetition(area: np.ndarray) -> float:
    """Return the highest peak of a flat area's autocorrelation away from its center: 1 for a lattice, 0 for nothing that repeats.

    Of the pattern's colors, without the light and dark of whole strokes, at shifts of up to half the area. Chance
    textures have 0.1 to 0.3, because there are many shifts to choose among.
    """
    values = area.astype(np.float64)
    correlation = _autocorrelation(values - ndimage.gaussian_filter(values, (_STROKE, _STROKE, 0)))
    center = tuple(side // 2 for side in correlation.shape)
    spots, _ = ndimage.label(correlation > _CENTER)
    is_peak = (correlation == ndimage.maximum_filter(correlation, 5)) & (spots != spots[center])
    # On the rim a slope looks like a peak.
    return float(correlation[1:-1, 1:-1][is_peak[1:-1, 1:-1]].max(initial=0.0))


def _autocorrelation(area: np.ndarray) -> np.ndarray:
    """Of (side, side, channels) at shifts of up to half of it each way; 1 at no shift, which is in the middle. Zeros
    where nothing can be seen.
    """
    side = len(area)
    centered = area - area.mean(axis=(0, 1))
    spectrum = fft.rfft2(centered, (2 * side, 2 * side), axes=(0, 1))
    products = fft.fftshift(fft.irfft2((np.abs(spectrum) ** 2).sum(axis=2), (2 * side, 2 * side)))
    overlap = side - np.abs(np.arange(-side, side))
    middle = (slice(side // 2, side // 2 + side + 1),) * 2
    means = products[middle] / np.outer(overlap, overlap)[middle]
    variance = (centered**2).sum(axis=2).mean()
    return means / variance if variance > area.shape[2] * _INVISIBLE**2 else np.zeros_like(means)


def noise(area: np.ndarray) -> float:
    """Return the standard deviation of a flat area's grain, of 255: Immerkaer 1996, whose mask does not see slopes."""
    grain = np.abs(ndimage.convolve(area.astype(np.float64), _LAPLACIAN)[1:-1, 1:-1])
    return float(np.sqrt(np.pi / 2) * grain.mean() / 6)
