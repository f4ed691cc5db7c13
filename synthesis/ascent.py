"""One step of gradient ascent (listings 12-12 and 12-13): the loss, its gradient, and where that leads.

The gradient of a picture too large for memory is put together from tiles. Used by `synthesis.deepdream`.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import tensorflow as tf

from imaging import images
from reverie.errors import InputError
from synthesis import checkpoints, features

BORDER = 2
"""Activations at the border are left out of the loss, against artifacts (listing 12-12)."""
MARGIN = 64
"""Pixels that a tile sees beyond its own: more than the border that its loss leaves out (2 cells of 16 or 32)."""

GUIDE_SIDE, GUIDE_PLACES = 384, 1024
"""A guide is shrunk to this longer side, and at most so many of its places are compared with: the comparison's
cost is the product of the places of picture and guide."""
STRIDE = 32
"""Largest distance in pixels between neighboring cells of a layer."""

Guide = tuple[tf.Tensor, ...]
"""Activations of a guide picture, float32 (places, channels), one a layer; empty without a guide."""


class Ascent:
    """The compiled gradient for an extractor and its layers; one trace serves all sizes.

    Args:
        layers: names, or `name:channel` for a single channel.
        dtype: of the convolutions; the loss and the picture are float32.
        folded, pauses: see `features.load`.
    """

    def __init__(
        self,
        name: str,
        layers: tuple[str, ...],
        dtype: str = "float32",
        is_guided: bool = False,
        folded: bool = False,
        pauses: bool = False,
    ):
        parsed = [_parse(name, layer) for layer in layers]
        self._channels = [channel for _, channel in parsed]
        self._extract = features.load(name, [layer for layer, _ in parsed], dtype, folded=folded, pauses=pauses)
        guides = tuple(tf.TensorSpec((None, None), tf.float32) for _ in layers) if is_guided else ()
        self.gradient = tf.function(
            self._gradient,
            input_signature=[
                tf.TensorSpec((1, None, None, 3), tf.float32),
                tf.TensorSpec((len(layers),), tf.float32),
                guides,
            ],
        )
        self._min_side = features.defaults(name).dream_min_side

    def guide(self, image: np.ndarray | None) -> Guide:
        """Return the activations of a guide picture, uint8 (height, width, 3), at each layer.

        Raises:
            ImageError: the picture is too small for the extractor.
        """
        if image is None:
            return ()
        image = images.fit_within(image, GUIDE_SIDE)
        if min(image.shape[:2]) < self._min_side:
            raise images.ImageError(
                f"guide_image: {image.shape[1]}x{image.shape[0]} pixels; accepted: sides of at least "
                f"{self._min_side} once the longer one is at most {GUIDE_SIDE}"
            )
        activations = self._activations(tf.constant(image[None], tf.float32))
        return tuple(_subsampled(tf.reshape(a, (-1, a.shape[-1]))) for a in activations)

    def whole_gradient(self, image, coefficients, guide: Guide):
        """Return the loss, its parts and its gradient, computed in one piece."""
        with checkpoints.large_call(image.shape[1] * image.shape[2]):
            return self.gradient(image, coefficients, guide)

    def tiled_gradient(self, image, coefficients, guide: Guide, tile: int, offset: tuple[int, int]):
        """Return the loss, its parts and its gradient, computed tile by tile.

        Every pixel belongs to exactly one tile, which sees `MARGIN` pixels more on each side, so neither
        the picture's edge nor the tiles' are left out. `offset` moves the seams; another one in every step
        leaves none.
        """
        rows, columns = (tile_windows(size, tile, shift) for size, shift in zip(image.shape[1:3], offset, strict=True))
        total, parts = np.zeros(image.shape[1:], np.float32), np.zeros(len(coefficients))
        for top, y in rows:
            for left, x in columns:
                checkpoints.checkpoint()
                inside = image[:, top.start : top.stop, left.start : left.stop]
                _, tile_parts, gradient = self.whole_gradient(inside, coefficients, guide)
                share = (y.stop - y.start) * (x.stop - x.start) / (image.shape[1] * image.shape[2])
                # A tile's loss is a mean over its window: its share of the picture's mean, area by area.
                area = inside.shape[1] * inside.shape[2] / (image.shape[1] * image.shape[2])
                own = gradient[0, y.start - top.start : y.stop - top.start, x.start - left.start : x.stop - left.start]
                total[y.start : y.stop, x.start : x.stop] = area * own.numpy()
                parts += share * tile_parts.numpy()
        return tf.constant(parts.sum(), tf.float32), tf.constant(parts, tf.float32), tf.constant(total[None])

    def _gradient(self, image, coefficients, guide):
        with tf.GradientTape() as tape:
            tape.watch(image)
            activations = self._activations(image)
            targets = guide or (None,) * len(activations)
            inner = [activation[:, BORDER:-BORDER, BORDER:-BORDER] for activation in activations]
            scores = [_score(activation, target) for activation, target in zip(inner, targets, strict=True)]
            parts = coefficients * tf.stack(scores)
            loss = tf.reduce_sum(parts)
        return loss, parts, tape.gradient(loss, image)

    def _activations(self, image):
        pairs = zip(self._extract(image), self._channels, strict=True)
        return [tf.cast(a if c is None else a[..., c : c + 1], tf.float32) for a, c in pairs]


def _score(activation, guide):
    """The mean square; with a guide the mean product with the guide's most similar place at each place."""
    if guide is None:
        return tf.reduce_mean(tf.square(activation))
    # Row by row: all places of a large picture against all of the guide would not fit into memory.
    nearest = tf.map_fn(
        lambda row: tf.argmax(tf.matmul(row, guide, transpose_b=True), axis=1),
        tf.stop_gradient(activation[0]),
        fn_output_signature=tf.int64,
    )
    return tf.reduce_mean(activation[0] * tf.gather(guide, nearest))


def _subsampled(places):
    """At most `GUIDE_PLACES` rows, evenly spaced."""
    return places[:: -(-places.shape[0] // GUIDE_PLACES)]


def gradient_ascent(image, gradient, step_length):
    """Return the image after one step of `step_length` along the unit gradient (listing 12-13)."""
    return image + step_length * tf.math.l2_normalize(gradient)


def roll(image, shift: tuple[int, int]):
    """Return the picture rolled by `shift` pixels down and to the right."""
    return tf.roll(image, shift, axis=(1, 2)) if any(shift) else image


def smoothed(gradient, sigma: float):
    """Return the sum of the gradient and its Gaussian blur, each of length 1. Coarse shapes then grow before grain."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.tile((weights / weights.sum())[:, None, None, None], (1, 1, 3, 1)).astype(np.float32)
    blurred = tf.pad(gradient, ((0, 0), (radius, radius), (radius, radius), (0, 0)), "SYMMETRIC")
    for k in (kernel, kernel.transpose(1, 0, 2, 3)):
        blurred = tf.nn.depthwise_conv2d(blurred, k, (1, 1, 1, 1), "VALID")
    return tf.math.l2_normalize(gradient) + tf.math.l2_normalize(blurred)


ascent = lru_cache(maxsize=16)(Ascent)
"""The compiled ascent of these layers, made and traced once."""


def _parse(name: str, layer: str) -> tuple[str, int | None]:
    """`mixed4` or `mixed4:17` as a layer and a channel."""
    layer, sign, channel = layer.partition(":")
    if not sign:
        return layer, None
    count = features.channels(name, layer)
    if not channel.isdecimal() or int(channel) >= count:
        raise InputError(f"layer: channel {channel!r} of {layer} in {name}; accepted: 0 to {count - 1}")
    return layer, int(channel)


def tile_windows(size: int, tile: int, shift: int) -> list[tuple[range, range]]:
    """Return, along one side of a picture, what each tile sees and what is its own; the latter cover the side once.

    What tiles see begins at multiples of the networks' stride, so that pooling groups the same pixels as in
    the whole picture, and has at most two lengths.
    """
    width = -(-(tile + 2 * MARGIN) // STRIDE) * STRIDE + STRIDE
    last = max(0, (size - width) // STRIDE * STRIDE)
    cuts = sorted({0, size, *range(shift % tile or tile, size, tile)})
    own = [range(a, b) for a, b in itertools.pairwise(cuts)]
    starts = [min(max(0, (o.start - MARGIN) // STRIDE * STRIDE), last) for o in own]
    return [(range(s, size if s == last else s + width), o) for s, o in zip(starts, own, strict=True)]
