"""Both axes, through VGG19: how much of the photograph is left, and how near its picture is to the painting.

Relative errors, so that 0 is perfect, 1 is what black activations would get, and layers count alike. Knows nothing
about networks and styles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tensorflow as tf

from imaging import images
from synthesis import features
from synthesis.losses import relative_error
from synthesis.style.loss import STYLE_LAYERS, mean_gram
from training import files

CONTENT_LAYERS = ("block3_conv3", "block4_conv2")
"""Where shapes and parts of things are, below the classes; the last is the axis of the plot."""
PAINTING_SIDES = (384, 512, None)
"""Longer sides of the paintings in pixels; None for a painting's own, up to `_LARGEST`. A network may have learned the
strokes of one size.
"""
_LARGEST = 2048
"""VGG19 takes about 2 KiB a pixel."""

_PROJECTIONS, _QUANTILES, _POSITIONS = 32, 256, 16_384
"""The sliced Wasserstein distance: directions in the space of channels, points along each, positions looked at."""


def side_name(side: int | None) -> str:
    """Return what figures call a size of the painting."""
    return "own" if side is None else str(side)


@dataclass(frozen=True)
class StyleStatistics:
    """What a picture's style is, layer by layer.

    Attributes:
        grams: Gram matrices over the number of positions, float32 (channels, channels).
        quantiles: of the activations along random directions, float32 (points, directions).
    """

    grams: tuple[np.ndarray, ...]
    quantiles: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, activations: Sequence) -> StyleStatistics:
        """Measure the activations of `STYLE_LAYERS`, (1, height, width, channels) each."""
        grams = tuple(np.asarray(mean_gram(activation))[0] for activation in activations)
        return cls(grams, tuple(_projected_quantiles(activation) for activation in activations))

    def gram_error(self, painting: StyleStatistics) -> float:
        """Return the squared error over the squared target, mean of the layers."""
        return _mean_relative_error(self.grams, painting.grams)

    def sliced_wasserstein(self, painting: StyleStatistics) -> float:
        """Return the squared 2-Wasserstein distance over random directions, as Heitz et al. 2021 compare textures, here over
        the painting's second moment; mean of the layers. Unlike Gram matrices it sees whole distributions.
        """
        return _mean_relative_error(self.quantiles, painting.quantiles)


@dataclass(frozen=True)
class Perceived:
    """One picture of a photograph.

    Attributes:
        content_error: squared error of the activations over the photograph's, for each of `CONTENT_LAYERS`.
        style_error, sliced_wasserstein: see `StyleStatistics`, for each size of the painting (`side_name`).
    """

    content_error: dict[str, float]
    style_error: dict[str, float]
    sliced_wasserstein: dict[str, float]


def content_of(photo: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the activations of uint8 (height, width, 3) at `CONTENT_LAYERS`, float32 (1, height, width, channels) each."""
    return tuple(np.asarray(activation) for activation in _activations(photo)[1])


def perceive(content: Sequence[np.ndarray], painted: np.ndarray, paintings: Mapping[str, StyleStatistics]) -> Perceived:
    """Compare a picture with its photograph and the painting.

    Args:
        content: the photograph's, see `content_of`.
        painted: uint8 (height, width, 3), of the photograph's size.
        paintings: of each size, see `painting_statistics`.
    """
    style, found = _activations(painted)
    here = StyleStatistics.of(style)
    return Perceived(
        content_error=dict(zip(CONTENT_LAYERS, map(_relative, found, content), strict=True)),
        style_error={side: here.gram_error(there) for side, there in paintings.items()},
        sliced_wasserstein={side: here.sliced_wasserstein(there) for side, there in paintings.items()},
    )


def painting_statistics(painting: np.ndarray, cache: Path) -> dict[str, StyleStatistics]:
    """Measure uint8 (height, width, 3) in its own shape, shrunk to each of `PAINTING_SIDES`, never enlarged.

    Args:
        cache: folder that keeps them, since large paintings take seconds.
    """
    return {side_name(side): _kept(images.fit_within(painting, side or _LARGEST), cache) for side in PAINTING_SIDES}


def _kept(painting: np.ndarray, cache: Path) -> StyleStatistics:
    asked = f"{painting.shape} {STYLE_LAYERS} {_PROJECTIONS} {_QUANTILES} {_POSITIONS}"
    file = cache / f"{hashlib.sha256(painting.tobytes() + asked.encode()).hexdigest()[:24]}.npz"
    if not file.exists():
        found = StyleStatistics.of(_activations(painting)[0])
        cache.mkdir(parents=True, exist_ok=True)
        arrays = [*found.grams, *found.quantiles]
        files.save_arrays(file, {f"arr_{i}": array for i, array in enumerate(arrays)})
    with np.load(file) as data:
        read = tuple(data[f"arr_{i}"] for i in range(2 * len(STYLE_LAYERS)))
    return StyleStatistics(read[: len(STYLE_LAYERS)], read[len(STYLE_LAYERS) :])


def _activations(image: np.ndarray) -> tuple[list, list]:
    """Return the activations of the style and of the content layers, (1, height, width, channels) each."""
    activations = _extractor()(tf.constant(image[None], tf.float32))
    return activations[: len(STYLE_LAYERS)], activations[len(STYLE_LAYERS) :]


@lru_cache(maxsize=1)
def _extractor():
    return tf.function(features.load("vgg19", (*STYLE_LAYERS, *CONTENT_LAYERS)), reduce_retracing=True)


def _relative(found, target) -> float:
    return float(relative_error(found, target))


def _projected_quantiles(activation) -> np.ndarray:
    """Sorted values at evenly spaced probabilities, so that pictures of different sizes compare."""
    rows = np.asarray(activation).reshape(-1, activation.shape[-1])
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((rows.shape[1], _PROJECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    if len(rows) > _POSITIONS:
        rows = rows[rng.choice(len(rows), _POSITIONS, replace=False)]
    return np.quantile(rows @ directions, (np.arange(_QUANTILES) + 0.5) / _QUANTILES, axis=0).astype(np.float32)


def _mean_relative_error(found: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> float:
    return float(np.mean([_relative(a, b) for a, b in zip(found, target, strict=True)]))
