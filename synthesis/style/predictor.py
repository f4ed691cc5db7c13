"""A painting in, the vector of its style out, without any training on it: a draft (Ghiasi et al. 2017).

What is looked at are means and standard deviations of the compact extractor's activations, and of the pixels: the same
kind of statistics that a vector sets in the network. The compact extractor ships with the project, so a draft needs no
ImageNet weights. Knows nothing about losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import keras
import numpy as np
from keras import layers, ops

from imaging import images
from synthesis import compact, features

PAINTING_SIDE = 512
"""Longer side, in pixels, of the paintings that are looked at: the scale of the strokes."""
_SIZES = ("length", "numbers", "components", "hidden")
_LAYERS = compact.LAYERS[:5]
_DAMPING = 0.02
"""Of the variance of the first component: weaker ones are not blown up to the size of the others."""


def statistics_of(paintings: Sequence[np.ndarray]) -> np.ndarray:
    """Return what a predictor looks at, float32 (paintings, numbers); `paintings` are uint8 (height, width, 3)."""
    return np.stack([_statistics(images.fit_within(painting, PAINTING_SIDE)) for painting in paintings])


@lru_cache(maxsize=1)
def _extractor() -> Callable:
    return features.load("compact", _LAYERS)


def _statistics(painting: np.ndarray) -> np.ndarray:
    batch = painting[None].astype(np.float32)
    activations = [batch, *(ops.convert_to_numpy(activation) for activation in _extractor()(batch))]
    return np.concatenate([moment for a in activations for moment in (a.mean((0, 1, 2)), a.std((0, 1, 2)))])


class StylePredictor(keras.Model):
    """Statistics to vectors: the mean of known styles, and what a linear layer and two others add to it, at first nothing.

    Args:
        length: of a vector.
        numbers: of the statistics of a painting.
        components: how many principal components of the statistics it listens to.
        hidden: width of the layer between.
    """

    def __init__(self, length: int, numbers: int, components: int = 64, hidden: int = 128):
        super().__init__(dtype="float32")
        self.sizes = dict(zip(_SIZES, (length, numbers, components, hidden), strict=True))
        self.center = self.add_weight(shape=(numbers,), trainable=False, name="center")
        self.projection = self.add_weight(shape=(numbers, components), trainable=False, name="projection")
        self.mean = self.add_weight(shape=(length,), trainable=False, name="mean")
        self.linear = layers.Dense(length, kernel_initializer="zeros", dtype="float32")
        self.hidden = layers.Dense(hidden, activation="gelu", dtype="float32")
        self.out = layers.Dense(length, use_bias=False, kernel_initializer="zeros", dtype="float32")
        self(ops.zeros((1, numbers)))

    def adapt(self, statistics: np.ndarray, vectors: np.ndarray) -> None:
        """Learn the principal components of paintings' statistics, and start from the mean of known styles.

        Args:
            statistics: float (paintings, numbers), of at least two.
            vectors: float (styles, length).
        """
        self.center.assign(statistics.mean(0))
        self.projection.assign(principal_components(statistics, self.sizes["components"]))
        self.mean.assign(vectors.mean(0))

    def components(self, statistics):
        """Return the components of statistics, of about unit variance: float32 (batch, components)."""
        return ops.matmul(statistics - self.center, self.projection)

    def call(self, statistics):
        """Return float32 (batch, length); `statistics` is float (batch, numbers)."""
        seen = self.components(statistics)
        return self.mean + self.linear(seen) + self.out(self.hidden(seen))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that the predictor is, by names, for a .npz file; the inverse of `restored`."""
        sizes = {name: np.asarray(size) for name, size in self.sizes.items()}
        return sizes | {f"v{i}": ops.convert_to_numpy(variable) for i, variable in enumerate(self.variables)}


def restored(arrays: Mapping[str, np.ndarray]) -> StylePredictor:
    """Return the predictor whose `StylePredictor.arrays` these are."""
    made = StylePredictor(*(int(arrays[name]) for name in _SIZES))
    for i, variable in enumerate(made.variables):
        variable.assign(arrays[f"v{i}"])
    return made


def principal_components(statistics: np.ndarray, count: int) -> np.ndarray:
    """Return what takes centered statistics to their `count` first components, float32 (numbers, count).

    Every number counts by its own spread. With fewer paintings than components the last columns are zero.
    """
    spread = statistics.std(0) + 1e-3 * np.abs(statistics.mean(0)) + 1e-6
    scaled = (statistics - statistics.mean(0)) / spread
    _, singular, rows = np.linalg.svd(scaled, full_matrices=False)
    variances = singular[:count] ** 2 / len(statistics)
    weights = 1 / np.sqrt(variances + _DAMPING * variances[0] + 1e-12)
    weights[variances < 1e-6 * variances[0]] = 0.0
    found = (rows[:count] * weights[:, None] / spread).T
    return np.pad(found, [(0, 0), (0, count - found.shape[1])]).astype(np.float32)
