"""A margin around a photograph, its own mirror image, that is restyled with it and cut off afterwards.

A style network feels where its picture ends, and paints what paintings have there: a dark foreground at the lower
edge, a frame. With a margin as wide as it feels, that falls outside. Knows nothing about networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MARGIN = 32
"""Pixels, a multiple of the network's stride, 8, and of the tiles' grid, 16, so that its cells lie on the photograph as they
do without a margin. The shipped network hardly looks for borders; it could feel them for 79 pixels.
"""


class Margins(NamedTuple):
    """Pixels beyond each side of a picture."""

    top: int = MARGIN
    bottom: int = MARGIN
    left: int = MARGIN
    right: int = MARGIN

    def put_on(self, photo: np.ndarray) -> np.ndarray:
        """A copy of (height, width, channels) with mirror images beyond its sides, several where it is small."""
        return np.pad(photo, ((self.top, self.bottom), (self.left, self.right), (0, 0)), "reflect")

    def take_off(self, painting: np.ndarray) -> np.ndarray:
        """A view of the inner part."""
        height, width, _ = painting.shape
        return painting[self.top : height - self.bottom, self.left : width - self.right]
