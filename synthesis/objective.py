"""The book's loss for style transfer (listing 12-22), and what the field has added to it.

With the defaults of `GatysParameters` it has the book's terms: VGG19, one content layer, five Gram matrices of equal weight,
total variation. More: several style pictures, a style for each region, layers and their weights, average
pooling, a style taken at another scale, and convolutions in bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import tensorflow as tf

from imaging import images
from synthesis import checkpoints, features
from synthesis.loss_terms import ContentLoss, Loss, StyleLoss, Sum, TotalVariation
from synthesis.losses import gram_matrix


@dataclass(frozen=True)
class Style:
    """One picture whose style is wanted, and where.

    Attributes:
        image: uint8 (height, width, 3).
        weight: its share where regions do not tell them apart; all shares sum to 1.
        mask: float32 (height, width) in [0, 1] at the picture's size: where this style belongs; None everywhere.
    """

    image: np.ndarray
    weight: float = 1.0
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Targets:
    """What the picture should look like to the extractor, and the weights of each loss.

    Attributes:
        contents: float32 (1, h, w, channels), one a content layer.
        grams: float32 (regions, channels, channels), one a style layer.
        masks: float32 (regions, h, w, 1), one a style layer; where each region's style is looked for.
        weights: float32 (3,): of the three losses; content_weights, style_weights: of each layer.
    """

    contents: tuple[tf.Tensor, ...]
    grams: tuple[tf.Tensor, ...]
    masks: tuple[tf.Tensor, ...]
    weights: tf.Tensor
    content_weights: tf.Tensor
    style_weights: tf.Tensor


@dataclass(frozen=True)
class Evaluation:
    """The loss at a picture.

    Attributes:
        loss, parts: the sum, and its weighted parts by name.
        layers: the weighted loss of each style and each content layer, by `style name` or `content name`.
        gradient: float32 (height, width, 3).
        exact: all layers, in float32; where not, `loss` is an estimate.
    """

    loss: float
    parts: Mapping[str, float]
    layers: Mapping[str, float]
    gradient: np.ndarray
    exact: bool = True


PARTS = (ContentLoss.kind, StyleLoss.kind, TotalVariation.kind)
"""The kinds of terms of the objective."""


@dataclass(frozen=True)
class Layers:
    """Which layers of which network; hashable, so that compiled objectives can be kept."""

    name: str
    style: tuple[str, ...]
    content: tuple[str, ...]
    pooling: str = "max"


def layers_of(name: str, style: Sequence[str] = (), content: Sequence[str] = (), pooling: str = "max") -> Layers:
    """Return these layers of a network, or the book's where none are given.

    Raises:
        FeaturesError: the network has no style layers.
    """
    network = features.defaults(name)
    if not network.style_layers:
        raise features.FeaturesError(f"features: {name} has no style layers; accepted: vgg19, compact")
    return Layers(name, tuple(style) or network.style_layers, tuple(content) or (network.content_layer,), pooling)


def without_negligible(layers: Layers, losses: Mapping[str, float], share: float) -> Layers:
    """Return the layers but the deepest ones that together hold less than `share` of the loss.

    The network can then end earlier. At least one style layer stays.

    Args:
        losses: weighted, as in `Evaluation.layers`.
    """
    depth = features.layer_names(layers.name)
    total, left_out = sum(losses.values()), 0.0
    style, content = list(layers.style), list(layers.content)
    for name in sorted({*style, *content}, key=depth.index, reverse=True):
        left_out += losses.get(f"style {name}", 0.0) + losses.get(f"content {name}", 0.0)
        if left_out >= share * total or style == [name]:
            break
        style, content = [s for s in style if s != name], [c for c in content if c != name]
    return replace(layers, style=tuple(style), content=tuple(content))


def restricted(targets: Targets, layers: Layers, kept: Layers) -> Targets:
    """Return the targets of `layers` for the layers that are `kept`."""
    styles = [layers.style.index(name) for name in kept.style]
    contents = [layers.content.index(name) for name in kept.content]
    return Targets(
        tuple(targets.contents[i] for i in contents),
        tuple(targets.grams[i] for i in styles),
        tuple(targets.masks[i] for i in styles),
        targets.weights,
        tf.gather(targets.content_weights, tf.constant(contents, tf.int32)),
        tf.gather(targets.style_weights, styles),
    )


class Objective:
    """The loss and its gradient for one set of layers and one arithmetic; a single trace serves all sizes.

    Sums over positions, the Gram matrices and the losses are float32 whatever `dtype` the convolutions have.
    """

    def __init__(self, layers: Layers, dtype: str = "float32", has_regions: bool = False, pauses: bool = False):
        self.layers = layers
        self._has_regions, self._is_exact = has_regions, dtype == "float32"
        self._extract = features.load(
            layers.name, [*layers.style, *layers.content], dtype, layers.pooling, pauses=pauses
        )
        styles, contents = len(layers.style), len(layers.content)
        content, style, variation = PARTS
        self._term_names = [f"{content} {layer}" for layer in layers.content]
        self._term_names += [*(f"{style} {layer}" for layer in layers.style), variation]
        self.loss_and_gradient = tf.function(
            self._loss_and_gradient,
            input_signature=[
                tf.TensorSpec((1, None, None, 3), tf.float32),
                tuple(tf.TensorSpec((1, None, None, None), tf.float32) for _ in range(contents)),
                tuple(tf.TensorSpec((None, None, None), tf.float32) for _ in range(styles)),
                tuple(tf.TensorSpec((None, None, None, 1), tf.float32) for _ in range(styles)),
                tf.TensorSpec((3,), tf.float32),
                tf.TensorSpec((contents,), tf.float32),
                tf.TensorSpec((styles,), tf.float32),
            ],
        )
        self._activations = tf.function(self._extract, input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)])

    def measure(self, pixels: np.ndarray, targets: Targets) -> Evaluation:
        """Return the loss, its parts and its gradient at float pixels (height, width, 3) in [0, 255]."""
        t = targets
        image = tf.constant(pixels[None], tf.float32)
        checkpoints.checkpoint()
        with checkpoints.large_call(image.shape[1] * image.shape[2]):
            loss, terms, gradient = self.loss_and_gradient(
                image, t.contents, t.grams, t.masks, t.weights, t.content_weights, t.style_weights
            )
        values = dict(zip(self._term_names, terms.numpy().tolist(), strict=True))
        parts = {part: sum(v for name, v in values.items() if name.split()[0] == part) for part in PARTS}
        layers = {name: value for name, value in values.items() if name not in PARTS}
        return Evaluation(float(loss), parts, layers, gradient.numpy()[0], self._is_exact)

    def activations(self, pixels: np.ndarray) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return the style and the content activations, float32, of pixels (height, width, 3) in [0, 255]."""
        checkpoints.checkpoint()
        with checkpoints.large_call(pixels.shape[0] * pixels.shape[1]):
            activations = [tf.cast(a, tf.float32) for a in self._activations(tf.constant(pixels[None], tf.float32))]
        count = len(self.layers.style)
        return activations[:count], activations[count:]

    def _loss_and_gradient(self, image, *targets):
        objective = self._objective(Targets(*targets))
        with tf.GradientTape() as tape:
            tape.watch(image)
            activations = dict(zip((*self.layers.style, *self.layers.content), self._extract(image), strict=True))
            terms = tf.concat(objective.measure(image, activations).weighted, axis=0)
            loss = tf.reduce_sum(terms)
        return loss, terms, tape.gradient(loss, image)

    def _objective(self, targets: Targets) -> Loss:
        """Return what is minimized; with the weights of `synthesis.gatys.BOOK` it is listing 12-22."""
        t, has_regions = targets, self._has_regions
        content = Sum.of(
            weight * ContentLoss(layer, target)
            for layer, target, weight in zip(self.layers.content, t.contents, _each(t.content_weights), strict=True)
        )
        style = Sum.of(
            weight * StyleLoss(layer, gram, masks if has_regions else None)  # Without regions all masks are ones.
            for layer, gram, masks, weight in zip(
                self.layers.style, t.grams, t.masks, _each(t.style_weights), strict=True
            )
        )
        return t.weights[0] * content + t.weights[1] * style + t.weights[2] * TotalVariation()


def _each(weights: tf.Tensor) -> list[tf.Tensor]:
    return tf.unstack(weights) if weights.shape[0] else []


def make_targets(
    objective: Objective,
    content: np.ndarray,
    styles: Sequence[Style],
    weights: Sequence[float],
    content_weights: Sequence[float],
    style_weights: Sequence[float],
    style_scale: float = 1.0,
    style_size: int = 0,
) -> Targets:
    """Compute once what every step compares with.

    A style is resampled to the picture's size (the book's way, whatever its shape) times `style_scale`; or, where
    `style_size` is given, shrunk in its own shape until its longer side has that many pixels.

    Args:
        content: uint8 or float (height, width, 3) in [0, 255]; its size is the picture's.
        styles: with masks all, or none of them.
        weights: of content, style and total variation; content_weights, style_weights: of each layer.
    """
    height, width, _ = content.shape
    content_activations, contents = objective.activations(content)
    size = [max(images.MIN_SIDE, round(side * style_scale)) for side in (height, width)]
    resized = [images.fit_within(s.image, style_size) if style_size else images.resize(s.image, *size) for s in styles]
    style_activations = [objective.activations(picture)[0] for picture in resized]
    pairs = [
        _region_targets([activations[i] for activations in style_activations], styles, layer.shape[1:3])
        for i, layer in enumerate(content_activations)
    ]
    return Targets(
        tuple(contents),
        tuple(grams for grams, _ in pairs),
        tuple(masks for _, masks in pairs),
        tf.constant(weights, tf.float32),
        tf.constant(content_weights, tf.float32),
        tf.constant(style_weights, tf.float32),
    )


def _region_targets(activations: list[tf.Tensor], styles: Sequence[Style], cells: Sequence[int]):
    """One layer's Gram matrices and masks, for a picture of `cells` positions at this layer.

    A Gram matrix is a sum over positions: each is brought to the number of positions of its region. Styles
    without masks share one region, which wants the weighted mean of their matrices.
    """
    means = [gram_matrix(a) / float(a.shape[1] * a.shape[2]) for a in activations]
    given = [s.mask[..., None] for s in styles if s.mask is not None]
    if not given:
        mean = tf.add_n([s.weight * m for s, m in zip(styles, means, strict=True)])
        return mean * float(cells[0] * cells[1]), tf.ones((1, *cells, 1))
    masks = tf.stack([tf.image.resize(mask, cells, method="area") for mask in given])
    return tf.concat(means, axis=0) * tf.reduce_sum(masks**2, axis=(1, 2, 3))[:, None, None], masks


@lru_cache(maxsize=16)
def compiled(layers: Layers, dtype: str = "float32", has_regions: bool = False, pauses: bool = False) -> Objective:
    """Return the objective of these layers, made and traced once; `pauses` as in `features.load`."""
    return Objective(layers, dtype, has_regions, pauses)
