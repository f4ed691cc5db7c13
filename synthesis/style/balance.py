"""How much of the photograph each style keeps: the weights of the content error, found while training.

Styles differ in what the same weight does: one keeps a face where another has lost the whole tiger. So what is asked for is
the *error*, and each style's weight moves until its error is there. Knows nothing about pictures or networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

_RATE = 0.03
"""Step of the logarithm of a weight, for a picture whose error is twice its target."""
_RANGE = (0.02, 20.0)
"""Smallest and largest weight: an error that cannot be reached must not push its weight without end."""
_SHARED = 0.3
"""How much of its step a style lends to one that has nothing in common with it."""


class ContentBalance(layers.Layer):
    """The weight of each style's content error: a Lagrange multiplier of `content error == target`.

    Its logarithm rises by `_RATE` times the relative excess of the error, once for every picture of the style.

    Args:
        targets: of the content error, one a style.
        initial: weight of every style.
        kinship: float32 (styles, styles), the share of its step that each style (row) lends to each other: with many
            styles each is seen too seldom to find its weight alone. Default: none.
    """

    def __init__(self, targets: Sequence[float], initial: float, kinship: np.ndarray | None = None):
        super().__init__(dtype="float32")
        self._targets = np.asarray(targets, np.float32)
        self._kinship = kinship
        self.log_weights = self.add_weight(
            shape=(len(self._targets),),
            initializer=keras.initializers.Constant(np.log(initial)),
            trainable=False,
            name="log_weights",
        )
        self.built = True

    def call(self, style_weights):
        """Return the weight for each picture, float32 (batch,); `style_weights` is (batch, styles)."""
        return ops.matmul(ops.cast(style_weights, "float32"), ops.exp(self.log_weights))

    def update(self, content_error, style_weights) -> None:
        """Move the weights by what these pictures miss; `content_error` is float32 (batch,)."""
        shares = ops.cast(style_weights, "float32")
        excess = ops.stop_gradient(content_error)[:, None] / self._targets - 1.0
        steps = shares * ops.clip(excess, -1.0, 1.0)
        steps = steps if self._kinship is None else ops.matmul(steps, self._kinship)
        moved = self.log_weights + _RATE * ops.sum(steps, axis=0)
        self.log_weights.assign(ops.clip(moved, *np.log(_RANGE)))


def kinship(components: np.ndarray) -> np.ndarray:
    """Return how much styles have in common, float32 (styles, styles): 1 for the same, `_SHARED` for strangers.

    Args:
        components: what tells paintings apart, float (styles, components).
    """
    distances = np.square(components[:, None] - components[None]).mean(-1)
    scale = np.median(distances) / 4 + 1e-12
    return (_SHARED + (1 - _SHARED) * np.exp(-distances / scale)).astype(np.float32)
