"""What a style network is trained for: two errors that pull against each other, and a surface without faults.

The photograph must survive (`content`) and the painting must be met (`style`). Both are relative, so that 0 is perfect
and a picture that has nothing of its target gets about 1: in every style, at every layer and at every stage the same
error counts the same. How much the one is worth in terms of the other is the trainer's (`training.style.balance`).

Departures from Johnson et al. 2016: the Gram matrices' error is relative to the painting's, layer by layer, where sums
would listen to the layer with the largest activations only; roughness counts where it exceeds the painting's, where
total variation would smooth brushwork too; and colors outside of the range are an error, not clipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from synthesis import features
from synthesis.losses import gram_matrix, relative_error, total_variation

STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
CONTENT_LAYERS = {"vgg19": "block4_conv2", "compact": "block4_conv1"}
"""Of each extractor: deep enough to let strokes vary, and not so deep that faces do."""


@dataclass(frozen=True)
class Weights:
    """Of the errors beside style, whose weight is 1; that of the content is found while training.

    Attributes:
        roughness, overshoot: see `Errors`.
        instability: see `training.style.train.StyleTrainer`.
    """

    roughness: float = 0.05
    overshoot: float = 1.0
    instability: float = 0.02


@dataclass(frozen=True)
class Errors:
    """How far each picture of a batch is from what is wanted; float32 (batch,) each.

    Attributes:
        content: relative squared error of the activations at the content layer, against the photograph's.
        style: relative squared error of the Gram matrices over positions, mean over `STYLE_LAYERS`.
        roughness: total variation a pixel over the painting's, less 1; 0 where it is no more.
        overshoot: mean distance of the values from [0, 255], over half of that range.
    """

    content: Any
    style: Any
    roughness: Any
    overshoot: Any

    def total(self, content_weight, weights: Weights):
        """The loss of each picture: float32 (batch,); `content_weight` is (batch,) or a scalar."""
        return (
            self.style
            + content_weight * self.content
            + weights.roughness * self.roughness
            + weights.overshoot * self.overshoot
        )


class PerceptualLoss:
    """Measures `Errors` of restyled pictures.

    Args:
        paintings: uint8 (height, width, 3) each, one a style.
        extractor, dtype: see `synthesis.features.load`.
    """

    def __init__(self, paintings: Sequence[np.ndarray], extractor: str = "vgg19", dtype: str = "float32"):
        content = CONTENT_LAYERS[extractor]
        self._extract_content = features.load(extractor, (content,), dtype)
        self._extract = features.load(extractor, (*STYLE_LAYERS, content), dtype)
        self._targets = StyleTargets.of(features.load(extractor, STYLE_LAYERS, dtype), paintings)

    def __call__(self, stylized, image, style_weights) -> Errors:
        """The errors of pictures; images are float (batch, height, width, 3) in [0, 255]."""
        clipped = ops.clip(stylized, 0.0, 255.0)
        *styles, content = self._extract(clipped)
        (wanted,) = self._extract_content(image)
        return Errors(
            content=relative_error(content, ops.stop_gradient(wanted), axis=(1, 2, 3)),
            style=self._style_error(styles, style_weights),
            roughness=ops.relu(roughness(clipped) / self._targets.roughness_of(style_weights) - 1.0),
            overshoot=ops.mean(ops.abs(stylized - clipped), axis=(1, 2, 3)) / 127.5,
        )

    def _style_error(self, activations, style_weights):
        targets = self._targets.grams_of(style_weights)
        errors = [
            relative_error(mean_gram(activation), target, axis=(1, 2))
            for activation, target in zip(activations, targets, strict=True)
        ]
        return sum(errors) / len(errors)


@dataclass(frozen=True)
class StyleTargets:
    """What the paintings look like to the extractor.

    Attributes:
        grams: for each layer the Gram matrices over the number of positions, float32 (styles, channels, channels).
        roughness: total variation a pixel, float32 (styles,).
    """

    grams: list[np.ndarray]
    roughness: np.ndarray

    @classmethod
    def of(cls, extract: Callable, paintings: Sequence[np.ndarray]) -> StyleTargets:
        """Args: `paintings`: uint8 (height, width, 3) each."""
        batches = [painting[None].astype(np.float32) for painting in paintings]
        grams = [[np.asarray(mean_gram(ops.cast(a, "float32"))) for a in extract(batch)] for batch in batches]
        rough = [np.asarray(roughness(batch), np.float32) for batch in batches]
        return cls([np.concatenate(layer) for layer in zip(*grams, strict=True)], np.concatenate(rough))

    def grams_of(self, style_weights) -> list:
        """For each layer the blended matrices, float32 (batch, channels, channels)."""
        weights = ops.cast(style_weights, "float32")
        return [ops.einsum("bs,scd->bcd", weights, grams) for grams in self.grams]

    def roughness_of(self, style_weights):
        """The blended roughness, float32 (batch,)."""
        return ops.matmul(ops.cast(style_weights, "float32"), self.roughness)


def mean_gram(activation):
    """Gram matrices over the number of positions: float32 (batch, channels, channels).

    In bfloat16 an entry is wrong by its rounding, 0.4 %, far less than what networks miss it by.
    """
    _, height, width, _ = activation.shape
    return gram_matrix(activation, activation.dtype) / float(height * width)


def roughness(image):
    """Total variation (listing 12-21) a pixel: float32 (batch,)."""
    _, height, width, _ = image.shape
    return total_variation(image) / float(height * width)
