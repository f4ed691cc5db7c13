"""What a style network is trained for: the book's objective (section 12.3) on the scale by which networks are judged, its
logarithm, and beside it the photograph's structure.

Measured at the four layers up to block4_conv1: the book's fifth style layer has under a thousandth of its objective,
and with its content layer, which has hardly more, half of its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from synthesis import features
from synthesis.gatys import BOOK
from synthesis.losses import gram_matrix, relative_error, style_loss, total_variation

LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
"""Layers of the style loss; the last also compares structure."""
PIXELS = 100_000
"""Of the picture whose balance is trained for: total variation is a sum over pixels, the book's style loss is not."""


class PerceptualLoss:
    """How far restyled pictures are from the book's style and smoothness, and from the photographs' structure.

    The first is the logarithm of the book's objective without its content loss. Halving it counts the same in
    every style and at every stage, where plain sums would let the one with the largest activations outweigh
    the others thirtyfold. The second is a relative error at the last layer against the photograph's activations,
    brought to the mean and deviation that each channel has in the painting (Huang & Belongie 2017): the book's
    content loss asks for the photograph's own statistics, which the style loss forbids.

    Args:
        paintings: uint8 (height, width, 3) each, one a style.
        content_weight: of the structure.
        extractor, dtype: see `synthesis.features.load`.
    """

    def __init__(
        self, paintings: Sequence[np.ndarray], content_weight: float, extractor: str = "vgg19", dtype: str = "float32"
    ):
        self._content_weight = content_weight
        self._extract = features.load(extractor, LAYERS, dtype)
        self._targets = StyleTargets.of(self._extract, paintings)
        self._book = BOOK
        self._book_layers = len(features.defaults(extractor).style_layers)

    def __call__(self, stylized, image, style_weights):
        """Scalar loss; images are float (batch, height, width, 3) in [0, 255]."""
        objective, structure = self.parts(stylized, image, style_weights)
        return ops.mean(ops.log(objective) + self._content_weight * structure)

    def parts(self, stylized, image, style_weights):
        """The objective and the relative error of the structure, each float32 (batch,)."""
        activations = self._extract(stylized)
        wanted = with_statistics(self._extract(image)[-1], *self._targets.statistics(style_weights))
        structure = relative_error(activations[-1], ops.stop_gradient(wanted), axis=(1, 2, 3))
        return self._objective(stylized, activations, style_weights), structure

    def _objective(self, stylized, activations, style_weights):
        """The book's style loss and total variation, with its weights, of a picture of `PIXELS` pixels."""
        _, height, width, _ = stylized.shape
        grams = self._targets.grams(style_weights)
        style = sum(_style_loss(a, gram, float(height * width)) for a, gram in zip(activations, grams, strict=True))
        variation = total_variation(stylized) * (PIXELS / (height * width))
        return self._book.style_weight / self._book_layers * style + self._book.total_variation_weight * variation


@dataclass(frozen=True)
class StyleTargets:
    """What the paintings look like to the extractor.

    Attributes:
        mean_grams: for each layer the Gram matrices over the number of positions, float32 (styles, channels, channels).
        means, deviations: of each channel of the last layer, float32 (styles, channels).
    """

    mean_grams: list[np.ndarray]
    means: np.ndarray
    deviations: np.ndarray

    @classmethod
    def of(cls, extract: Callable, paintings: Sequence[np.ndarray]) -> StyleTargets:
        """Args: `paintings`: uint8 (height, width, 3) each."""
        seen = [[np.asarray(ops.cast(a, "float32")) for a in extract(p[None].astype(np.float32))] for p in paintings]
        layers = list(zip(*seen, strict=True))
        grams = [np.concatenate([_mean_gram(a) for a in layer]) for layer in layers]
        axes = (0, 1, 2)
        return cls(grams, np.stack([a.mean(axes) for a in layers[-1]]), np.stack([a.std(axes) for a in layers[-1]]))

    def grams(self, style_weights) -> list:
        """For each layer the blended matrices, float32 (batch, channels, channels)."""
        weights = ops.cast(style_weights, "float32")
        return [ops.einsum("bs,scd->bcd", weights, grams) for grams in self.mean_grams]

    def statistics(self, style_weights) -> tuple:
        """The blended means and deviations, float32 (batch, channels) each."""
        weights = ops.cast(style_weights, "float32")
        return ops.matmul(weights, self.means), ops.matmul(weights, self.deviations)


def with_statistics(activation, mean, deviation):
    """Activations brought to another mean and standard deviation of each picture's channels.

    Args:
        activation: (batch, height, width, channels).
        mean, deviation: float32 (batch, channels).

    Returns:
        float32, as `activation`.
    """
    x = ops.cast(activation, "float32")
    centred = x - ops.mean(x, axis=(1, 2), keepdims=True)
    # Plus one, little beside VGG19's activations: channels that are all zero stay so.
    unit = centred * ops.rsqrt(ops.mean(ops.square(centred), axis=(1, 2), keepdims=True) + 1.0)
    return unit * deviation[:, None, None] + mean[:, None, None]


def _mean_gram(activation: np.ndarray) -> np.ndarray:
    return np.asarray(gram_matrix(activation), np.float32) / np.float32(activation[..., 0].size)


def _style_loss(activation, mean_gram, pixels: float):
    """The book's loss of a layer: (batch,)."""
    _, height, width, _ = activation.shape
    # In bfloat16 an entry is wrong by its rounding, 0.4 %, far less than what networks miss it by.
    return style_loss(gram_matrix(activation, activation.dtype), mean_gram * (height * width), pixels)
