"""What a style network is trained for: two errors that pull against each other, and a surface without faults.

The photograph must survive (`content`) and the painting must be met (`style`). Both are relative, so that 0 is perfect
and a picture that has nothing of its target gets about 1: in every style, at every layer and at every stage the same
error counts the same. How much the one is worth in terms of the other is the trainer's (`synthesis.style.balance`).

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
from synthesis.loss_terms import Loss, Measured, Term
from synthesis.losses import gram_matrix, relative_error, total_variation

STYLE_LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
CONTENT_LAYERS = {"vgg19": "block4_conv2", "compact": "block4_conv1"}
"""Of each extractor: deep enough to let strokes vary, and not so deep that faces do."""


@dataclass(frozen=True)
class Weights:
    """Weights of the terms beside style, whose weight is 1. That of the content is found while training.

    Attributes:
        roughness, overshoot: see `ExcessRoughness` and `Overshoot`.
        instability: of how much two views of a scene are painted unlike, which the trainer measures.
    """

    roughness: float = 0.05
    overshoot: float = 1.0
    instability: float = 0.02


@dataclass(frozen=True, eq=False)
class ContentError(Term):
    """Relative squared error of the activations at the content layer, against the photograph's.

    Attributes:
        target: float (batch, height, width, channels), the photograph's activations.
    """

    kind = name = "content"
    layer: str
    target: Any

    @property
    def term_layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def value(self, image, activations):
        return relative_error(activations[self.layer], self.target, axis=(1, 2, 3))


@dataclass(frozen=True, eq=False)
class StyleError(Term):
    """Relative squared error of the Gram matrices over positions, mean over `STYLE_LAYERS`.

    Attributes:
        targets: for each layer the paintings' matrices, float32 (batch, channels, channels).
    """

    kind = name = "style"
    targets: Sequence[Any]

    @property
    def term_layers(self) -> tuple[str, ...]:
        return STYLE_LAYERS

    def value(self, image, activations):
        errors = [
            relative_error(mean_gram(activations[layer]), target, axis=(1, 2))
            for layer, target in zip(STYLE_LAYERS, self.targets, strict=True)
        ]
        return sum(errors) / len(errors)


@dataclass(frozen=True, eq=False)
class ExcessRoughness(Term):
    """Total variation a pixel over the painting's, less 1; 0 where it is no more.

    Attributes:
        target: the painting's, float32 (batch,).
    """

    kind = name = "roughness"
    target: Any

    def value(self, image, activations):
        return ops.relu(roughness(in_range(image)) / self.target - 1.0)


@dataclass(frozen=True, eq=False)
class Overshoot(Term):
    """Mean distance of the values from [0, 255], over half of that range."""

    kind = name = "overshoot"

    def value(self, image, activations):
        return ops.mean(ops.abs(image - in_range(image)), axis=(1, 2, 3)) / 127.5


class PerceptualLoss:
    """What the network is trained for; see the module's docstring.

    Args:
        paintings: uint8 (height, width, 3) each, one a style; none where only `measure` is called.
        extractor, dtype: see `synthesis.features.load`.
        weights: of the terms beside content and style.
    """

    def __init__(
        self,
        paintings: Sequence[np.ndarray],
        extractor: str = "vgg19",
        dtype: str = "float32",
        weights: Weights = Weights(),
    ):
        self._content_layer, self._weights = CONTENT_LAYERS[extractor], weights
        self._layers = (*STYLE_LAYERS, self._content_layer)
        self._extract_content = features.load(extractor, (self._content_layer,), dtype)
        self._extract = features.load(extractor, self._layers, dtype)
        self._targets = StyleTargets.of(features.load(extractor, STYLE_LAYERS, dtype), paintings)

    def __call__(self, stylized, image, style_weights, content_weight=1.0) -> Measured:
        """Return the terms "style", "content", "roughness" and "overshoot" of restyled pictures.

        Args:
            stylized, image: float (batch, height, width, 3) in [0, 255]; the former may leave the range.
            style_weights: float (batch, styles), rows that sum to 1.
            content_weight: float (batch,) or a scalar.
        """
        return self.measure(stylized, image, self._targets.blended(style_weights), content_weight)

    def measure(self, stylized, image, targets: StyleTargets, content_weight=1.0) -> Measured:
        """Return the terms against other paintings, one a picture; else like a call."""
        return self.against(stylized, self.content_of(image), targets, content_weight)

    def content_of(self, image):
        """Return a photograph's activations at the content layer, which it is to keep."""
        (content,) = self._extract_content(image)
        return ops.stop_gradient(content)

    def against(self, stylized, content, targets: StyleTargets, content_weight=1.0) -> Measured:
        """Return the terms like `measure`, with the photographs' `content_of`."""
        activations = dict(zip(self._layers, self._extract(in_range(stylized)), strict=True))
        return self._objective(content, targets, content_weight).measure(stylized, activations)

    def _objective(self, content_target, targets: StyleTargets, content_weight) -> Loss:
        return (
            StyleError(targets.grams)
            + content_weight * ContentError(self._content_layer, content_target)
            + self._weights.roughness * ExcessRoughness(targets.roughness)
            + self._weights.overshoot * Overshoot()
        )


@dataclass(frozen=True)
class StyleTargets:
    """What the paintings look like to the extractor.

    Attributes:
        grams: for each layer the Gram matrices over the number of positions, float32 (paintings, channels, channels).
        roughness: total variation a pixel, float32 (paintings,).
    """

    grams: list[Any]
    roughness: Any

    @classmethod
    def of(cls, extract: Callable, paintings: Sequence[np.ndarray]) -> StyleTargets:
        """Measure the paintings, uint8 (height, width, 3) each, through `extract`."""
        if not paintings:
            return cls([], np.zeros(0, np.float32))
        batches = [painting[None].astype(np.float32) for painting in paintings]
        grams = [[np.asarray(mean_gram(ops.cast(a, "float32"))) for a in extract(batch)] for batch in batches]
        rough = [np.asarray(roughness(batch), np.float32) for batch in batches]
        return cls([np.concatenate(layer) for layer in zip(*grams, strict=True)], np.concatenate(rough))

    def blended(self, style_weights) -> StyleTargets:
        """Return the weighted sums of the paintings, one a row of float (batch, paintings)."""
        weights = ops.cast(style_weights, "float32")
        grams = [ops.einsum("bs,scd->bcd", weights, grams) for grams in self.grams]
        return StyleTargets(grams, ops.matmul(weights, self.roughness))


def in_range(image):
    """Return the image with its values clipped to [0, 255]."""
    return ops.clip(image, 0.0, 255.0)


def mean_gram(activation):
    """Return the Gram matrices over the number of positions: float32 (batch, channels, channels).

    In bfloat16 an entry is wrong by its rounding, 0.4 %, far less than what networks miss it by.
    """
    _, height, width, _ = activation.shape
    return gram_matrix(activation, activation.dtype) / float(height * width)


def roughness(image):
    """Return the total variation (listing 12-21) divided by the number of pixels: float32 (batch,)."""
    _, height, width, _ = image.shape
    return total_variation(image) / float(height * width)
