"""A painting of our own for the demo's style transfer: stained glass in warm and cold colors.

Voronoi cells that shrink toward a bright center, each with its own hue and grain, in dark lead lines.
"""

from __future__ import annotations

import colorsys

import numpy as np
from scipy.spatial import cKDTree


def stained_glass(height: int = 320, width: int = 480, cells: int = 260, seed: int = 4) -> np.ndarray:
    """Draw the window: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    center = np.array([0.42 * height, 0.62 * width])
    points = _points(rng, center, height, width, cells)
    grid = np.indices((height, width)).reshape(2, -1).T.astype(float)
    distances, nearest = cKDTree(points).query(grid, k=2)
    colors = np.array([_color(rng, float(np.linalg.norm(p - center)) / width) for p in points])
    glass = colors[nearest[:, 0]] * (1 + 0.10 * rng.standard_normal((len(grid), 1)))
    glass *= 0.75 + 0.25 * np.cos(0.5 * distances[:, :1])
    lead = np.clip((distances[:, 1] - distances[:, 0]) / 2.5, 0, 1)[:, None]
    window = glass * lead + np.array([0.05, 0.05, 0.09]) * (1 - lead)
    return (np.clip(window, 0, 1) * 255).reshape(height, width, 3).astype(np.uint8)


def _points(rng: np.random.Generator, center: np.ndarray, height: int, width: int, cells: int) -> np.ndarray:
    """Half of the cells everywhere, half crowded around the center."""
    everywhere = rng.uniform(0, [height, width], (cells // 2, 2))
    crowded = center + rng.standard_normal((cells - cells // 2, 2)) * [0.16 * height, 0.16 * width]
    return np.concatenate([everywhere, crowded])


def _color(rng: np.random.Generator, distance: float) -> tuple[float, float, float]:
    """Gold and red near the center, blue and green away from it."""
    hue = rng.uniform(0.0, 0.16) if distance < 0.16 + 0.06 * rng.standard_normal() else rng.uniform(0.42, 0.72)
    return colorsys.hsv_to_rgb(hue, rng.uniform(0.65, 1.0), rng.uniform(0.55, 1.0))
