"""Less flicker in restyled videos: where the video stands still, so should its painting.

A network sees noise that nobody else sees and paints other strokes on each frame. Knows nothing about files.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from imaging import images

KEEP = 0.9
"""Share of the painting so far that stays where nothing moves; about 1 / (1 - KEEP) frames are averaged."""
STILL = 4.0
"""Change of the frame's lightness, of 255, at which that share has fallen to KEEP / e. A picture that fades lags
behind by at most about 6 of 255 then.
"""
_EDGE = 2.0
"""Lightness a pixel, of 255, from which a slope is an edge and not noise."""
_RADIUS = 2
"""Pixels over which changes are averaged: single noisy pixels are no motion."""


class Smoother:
    """Keeps most of the painting so far wherever the video stands still, pixel by pixel."""

    def __init__(self) -> None:
        self._frame: np.ndarray | None = None
        self._painting = np.empty(0, np.float32)

    def __call__(self, frame: np.ndarray, stylized: np.ndarray) -> np.ndarray:
        """The next frame, uint8 (height, width, 3), and what the network made of it; returns the smoothed one."""
        painting = stylized.astype(np.float32)
        if self._frame is not None and self._frame.shape == frame.shape:
            painting += kept_share(self._frame, frame)[..., None] * (self._painting - painting)
        self._frame, self._painting = frame, painting
        return images.to_uint8(painting)


def kept_share(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return how much of the painting stays: float32 (height, width), from `KEEP` where nothing changed to 0."""
    still = np.exp(-np.square(motion(before, after) / STILL))
    return KEEP * _camera_stands(after, still) * still


def _camera_stands(frame: np.ndarray, still: np.ndarray) -> float:
    """1 if most of the frame's edges stand still, 0 if most move, given how still each pixel is.

    A clear sky looks still while the camera turns, but its painted strokes move with the rest.
    """
    edges = np.hypot(*np.gradient(_lightness(frame)))
    edges[edges < _EDGE] = 0
    share = np.average(still, weights=edges) if edges.any() else 1.0
    return float(np.clip((share - 0.2) / 0.3, 0, 1))


def motion(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Change of lightness between two frames, averaged over neighbors: float32 (height, width), 0 to 255."""
    return np.abs(_lightness(after) - _lightness(before))


def flicker(frames: list[np.ndarray], painted: list[np.ndarray]) -> float:
    """Return the mean absolute change from frame to frame of `painted` where `frames` stand still, of 255."""
    changes = []
    for i in range(1, len(frames)):
        still = motion(frames[i - 1], frames[i]) < STILL / 2
        changes.append(np.abs(painted[i].astype(np.float32) - painted[i - 1])[still])
    return float(np.concatenate(changes).mean())


def _lightness(frame: np.ndarray) -> np.ndarray:
    blurred = Image.fromarray(frame).convert("L").filter(ImageFilter.BoxBlur(_RADIUS))
    return np.asarray(blurred, np.float32)
