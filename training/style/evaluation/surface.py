"""What a viewer sees on the surface of a picture, whatever it shows: patterns and grain in flat areas, bands along the
borders, clipping, and how calmly the painting follows a photograph that moves.

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
PLAIN_SIDE = 128
"""Of a flat area, in pixels: three or more periods of the patterns that networks make."""
PLAIN_DEVIATION = 6.0
"""The largest standard deviation, of 255, of a flat area around its plane of colour: skies, walls, fog."""

_INTERIOR = 48
"""Where a band's neighbourhood ends, in pixels from the border."""
_CENTRE = 1 / np.e
"""The autocorrelation around zero shift that is the texture's own grain, no repetition of it."""
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])


# The whole picture.


def clipped(picture: np.ndarray) -> float:
    """Share of values that are 0 or 255."""
    return float(np.mean((picture == 0) | (picture == 255)))


def border_bands(photo: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """How far each border departs from the picture just inside it, beyond what the photograph does there.

    Returns:
        float64 (4 borders, 3 channels), of 255, signed: top, bottom, left, right. Their mean over photographs is what
        a network does; what one photograph has there is gone from it.
    """
    return np.stack([_band(a) - _band(b) for a, b in zip(_from_borders(painted), _from_borders(photo), strict=True)])


def _from_borders(picture: np.ndarray) -> list[np.ndarray]:
    columns = picture.swapaxes(0, 1)
    return [picture, picture[::-1], columns, columns[::-1]]


def _band(rows: np.ndarray) -> np.ndarray:
    return rows[:BORDER].mean(axis=(0, 1)) - rows[BORDER:_INTERIOR].mean(axis=(0, 1))


def shift_over_gradient(paint: Paint, photo: np.ndarray) -> float:
    """How much the painting changes when the photograph moves by one pixel, over its own change from pixel to pixel.

    0 for a painting that moves with the photograph, 1 for one that stays where it was, above 1 for one that is painted
    anew. Mean of both directions; a border of `BORDER` pixels is left out.
    """
    return float(np.mean([_shift_ratio(paint, photo, axis) for axis in (0, 1)]))


def _shift_ratio(paint: Paint, photo: np.ndarray, axis: int) -> float:
    first, second = (paint(part).astype(np.float32) for part in _without_ends(photo, axis))
    _, here = _without_ends(first, axis)
    before, _ = _without_ends(first, axis)
    moved, _ = _without_ends(second, axis)
    return _inner_difference(here, moved) / max(_inner_difference(here, before), 1e-6)


def _without_ends(picture: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture without its last row or column, and without its first."""
    all_before = (slice(None),) * axis
    return picture[(*all_before, slice(None, -1))], picture[(*all_before, slice(1, None))]


def _inner_difference(a: np.ndarray, b: np.ndarray) -> float:
    inner = (slice(BORDER, -BORDER),) * 2
    return float(np.abs(a[inner] - b[inner]).mean())


# Flat areas.


@dataclass(frozen=True)
class Window:
    """A square of a picture."""

    top: int
    left: int
    side: int = PLAIN_SIDE

    def of(self, picture: np.ndarray) -> np.ndarray:
        return picture[self.top : self.top + self.side, self.left : self.left + self.side]


def plain_window(photo: np.ndarray) -> Window | None:
    """The flattest square of a photograph, or None where none is flat (`PLAIN_DEVIATION`) or the picture is too small."""
    height, width = photo.shape[:2]
    step = PLAIN_SIDE // 8
    windows = [
        Window(top, left)
        for top in range(BORDER, height - BORDER - PLAIN_SIDE + 1, step)
        for left in range(BORDER, width - BORDER - PLAIN_SIDE + 1, step)
    ]
    flattest = min(windows, key=lambda w: _plain_deviation(w.of(photo)), default=None)
    return flattest if flattest and _plain_deviation(flattest.of(photo)) <= PLAIN_DEVIATION else None


def _plain_deviation(area: np.ndarray) -> float:
    return float(np.sqrt(np.mean(_without_plane(_grey(area)) ** 2)))


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64).mean(axis=2)


def _without_plane(area: np.ndarray) -> np.ndarray:
    """Less the plane that fits it best: a sky that fades is as plain as one that does not."""
    y, x = (np.linspace(-1, 1, side) for side in area.shape)
    rows, columns = area.mean(axis=1), area.mean(axis=0)
    # On a grid the three directions of a plane are orthogonal, so each is fitted by itself.
    return area - rows.mean() - np.add.outer(y * (y @ rows) / (y @ y), x * (x @ columns) / (x @ x))


def repetition(area: np.ndarray) -> float:
    """The highest peak of a flat area's autocorrelation away from its centre: 1 for a lattice, 0 for nothing that repeats.

    Of chance textures it is 0.1 to 0.3, because there are many shifts to choose among.
    """
    correlation = _autocorrelation(_without_plane(_grey(area)))
    centre = tuple(side // 2 for side in correlation.shape)
    labels, _ = ndimage.label(correlation > _CENTRE)
    is_peak = (correlation == ndimage.maximum_filter(correlation, 5)) & (labels != labels[centre])
    return float(max(correlation[is_peak].max(initial=0.0), 0.0))


def _autocorrelation(area: np.ndarray) -> np.ndarray:
    """At shifts of up to half the area each way; 1 at no shift, which is in the middle. Zeros for an even area."""
    padded = [2 * side for side in area.shape]
    spectrum = fft.rfft2(area, padded)
    products = fft.fftshift(fft.irfft2(np.abs(spectrum) ** 2, padded))
    pairs = np.outer(*(side - np.abs(np.arange(-side, side)) for side in area.shape))
    middle = tuple(slice(side // 2, side // 2 + side + 1) for side in area.shape)
    variance = np.mean(area**2)
    return products[middle] / pairs[middle] / variance if variance > 1e-6 else np.zeros(products[middle].shape)


def noise(area: np.ndarray) -> float:
    """Standard deviation of a flat area's grain, of 255: Immerkaer 1996, which does not see slopes and edges' sides."""
    height, width = area.shape[:2]
    grain = np.abs(ndimage.convolve(_grey(area), _LAPLACIAN)[1:-1, 1:-1]).sum()
    return float(np.sqrt(np.pi / 2) * grain / (6 * (height - 2) * (width - 2)))
