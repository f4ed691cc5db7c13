"""The two kinds of training batches of the style network: crops to restyle in two views, and pictures to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ViewBatch:
    """Crops that the perceptual loss judges, each painted in two views.

    Attributes:
        photos: float32 (batch, side, side, 3), pixels in [0, 255].
        style_weights: float32 (batch, styles), rows that sum to 1.
        views: int32 (batch, 4), the same row for all: where the loss's window begins in the first view, and where
            the second view begins in the crop, each as (down, right) in pixels.
    """

    photos: np.ndarray
    style_weights: np.ndarray
    views: np.ndarray

    def inputs(self) -> dict[str, Any]:
        """Return what `StyleTrainer` takes."""
        return {"image": self.photos, "style_weights": self.style_weights, "views": self.views}


@dataclass(frozen=True)
class DistillationBatch:
    """Photographs, and the pictures that a teacher makes of them.

    Attributes:
        photos, targets: float32 (batch, size, size, 3), pixels in [0, 255].
        style_weights: float32 (batch, styles), rows that sum to 1.
    """

    photos: np.ndarray
    style_weights: np.ndarray
    targets: np.ndarray

    def inputs(self) -> dict[str, Any]:
        """Return what `StyleTrainer` takes."""
        return {"image": self.photos, "style_weights": self.style_weights, "target": self.targets}


Batch = ViewBatch | DistillationBatch
