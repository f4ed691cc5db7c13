"""The transformation network: a picture in, the picture in a style out.

Two shapes out of the same layers, both with conditional instance normalization (Dumoulin et al. 2017), so
that one network holds several styles and blends them, and with nearest-neighbor enlarging before a
convolution against checkerboards:

- `fast` is shaped by what convolutions cost in ONNX Runtime on a CPU: one convolution takes the picture to a
  quarter of its size, the residual blocks work at an eighth, and no layer with many channels sees full or half
  resolution.
- `johnson` is the network of Johnson et al. 2016, for comparison.

Both depart from their sources in the photograph's own share of the painting (see `ToRGB`), which a short training
learns sooner than the whole painting.

All that tells one style from another is a vector: every scale and every shift, and the share. The network keeps a table
of vectors for the styles it has names for, and paints with any other (`StyleNetwork.paint`). Knows nothing about losses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from imaging import images

EPSILON = 1e-5
"""Added to the variance by the normalization."""

_NAME = re.compile(r"[\w.-]+( [\w.-]+)*")
"""Of styles: clients write several as "name=weight,name=weight"."""
_NARROWEST = 6
"""The narrowest layer has a sixth of the width."""


@dataclass(frozen=True)
class Preset:
    """Default sizes of a shape.

    Attributes:
        width: channels of the residual blocks.
        blocks: residual blocks.
        multiple: the network takes pictures whose height and width are multiples of this.
    """

    width: int
    blocks: int
    multiple: int


PRESETS = {"fast": Preset(96, 4, multiple=8), "johnson": Preset(128, 5, multiple=4)}


@dataclass(frozen=True)
class StyleNetworkConfig:
    """Shape of the network.

    Attributes:
        styles: names, in the order of the weight vector.
        preset: "fast" or "johnson"; see the module's docstring.
        width: channels of the residual blocks; 0 for the preset's.
        blocks: residual blocks; 0 for the preset's.
    """

    styles: tuple[str, ...]
    preset: str = "fast"
    width: int = 0
    blocks: int = 0

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) != len(self.styles):
            raise ValueError(f"styles are {list(self.styles)}; accepted: at least one name, each once")
        for name in self.styles:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"a style is called {name!r}; accepted: letters, digits, '_', '-', '.' and single spaces between them"
                )
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; accepted: {', '.join(PRESETS)}")
        preset = PRESETS[self.preset]
        object.__setattr__(self, "styles", tuple(self.styles))
        object.__setattr__(self, "width", self.width or preset.width)
        object.__setattr__(self, "blocks", self.blocks or preset.blocks)
        if self.width < _NARROWEST or self.blocks < 1:
            raise ValueError(
                f"width and blocks are {self.width} and {self.blocks}; accepted: from {_NARROWEST} and from 1"
            )

    @property
    def multiple(self) -> int:
        """Height and width of a picture must be multiples of this."""
        return PRESETS[self.preset].multiple


def reflect_pad(x, pixels: int):
    """Pad height and width of (batch, height, width, channels) by reflection on all four sides."""
    return ops.pad(x, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]], mode="reflect")


def enlarge(x):
    """Double the height and width by repeating pixels (nearest neighbor)."""
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


Scaling = tuple[Any, Any]
"""Scales and shifts of the channels after a normalization, float32 (batch, channels) each."""


class ConditionalInstanceNormalization(layers.Layer):
    """Normalize each channel of each image, then scale and shift as the style says.

    Attributes:
        gamma, beta: scales and shifts of the styles with a name, (styles, channels).
    """

    def __init__(self, styles: int, channels: int):
        super().__init__()
        self.gamma = self.add_weight(shape=(styles, channels), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(styles, channels), initializer="zeros", name="beta")

    def call(self, x, style: Scaling):
        gamma, beta = style
        x32 = ops.cast(x, "float32")
        mean = ops.mean(x32, axis=(1, 2), keepdims=True)
        centered = x32 - mean
        variance = ops.mean(ops.square(centered), axis=(1, 2), keepdims=True)
        scale = ops.rsqrt(variance + EPSILON) * gamma[:, None, None, :]
        return ops.cast(centered * scale + beta[:, None, None, :], x.dtype)


class ConvNorm(layers.Layer):
    """Enlarge if told, reflection pad, convolution, conditional instance normalization, and ReLU unless told otherwise."""

    def __init__(self, styles: int, filters: int, kernel: int, strides: int = 1, enlarges=False, activates=True):
        super().__init__()
        self.padding = kernel // 2 if kernel % 2 else (kernel - strides) // 2
        self.enlarges, self.activates = enlarges, activates
        self.conv = layers.Conv2D(filters, kernel, strides, use_bias=False)
        self.norm = ConditionalInstanceNormalization(styles, filters)

    def call(self, x, style: Scaling):
        x = self.conv(reflect_pad(enlarge(x) if self.enlarges else x, self.padding))
        x = self.norm(x, style)
        return ops.relu(x) if self.activates else x


class Residual(layers.Layer):
    """Two convolutions added to their input."""

    def __init__(self, styles: int, filters: int):
        super().__init__()
        self.first = ConvNorm(styles, filters, 3)
        self.second = ConvNorm(styles, filters, 3, activates=False)

    def call(self, x, first: Scaling, second: Scaling):
        return x + self.second(self.first(x, first), second)


class ToRGB(layers.Layer):
    """The painting: a share of the photograph that each style chooses, and what a convolution of the features adds.

    Colors are in [-1, 1]. The share lets training start near the photograph and end without its fine texture,
    which features at a quarter of the size could not take away again.
    """

    def __init__(self, styles: int, kernel: int, enlarges: bool):
        super().__init__()
        self.padding, self.enlarges = kernel // 2, enlarges
        self.share = self.add_weight(shape=(styles, 1), initializer=keras.initializers.Constant(0.3), name="share")
        # From zero: the features come in as they learn.
        self.conv = layers.Conv2D(3, kernel, kernel_initializer="zeros")

    def call(self, x, photo, share):
        added = self.conv(reflect_pad(enlarge(x) if self.enlarges else x, self.padding))
        return share[:, None, None, :] * ops.cast(photo, "float32") + ops.cast(added, "float32")


class StyleNetwork(keras.Model):
    """See the module's docstring.

    Attributes:
        down, residuals, up, to_rgb: the layers in their order.
        skip: the first layer's output is added to that of the first of `up`.
    """

    def __init__(self, config: StyleNetworkConfig):
        super().__init__()
        self.config = config
        make = {"fast": _fast_layers, "johnson": _johnson_layers}[config.preset]
        self.down, self.up, self.to_rgb = make(len(config.styles), config.width)
        self.residuals = [Residual(len(config.styles), config.width) for _ in range(config.blocks)]
        self.skip = config.preset == "fast"

    def call(self, inputs):
        """Restyle images.

        Args:
            inputs: `(image, style_weights)`: float (batch, height, width, 3), RGB in [0, 255], height
                and width multiples of `config.multiple`, at least 16; float (batch, styles), rows that sum to 1.

        Returns:
            float32 (batch, height, width, 3), nominally in [0, 255], not clipped.
        """
        image, style_weights = inputs
        return self.paint(image, self.vectors(style_weights))

    def paint(self, image, vectors):
        """Restyle images in any styles.

        Args:
            image: as in `call`.
            vectors: float (batch, length), a style for each image; see `vectors`.

        Returns:
            As `call`.
        """
        photo = image / 127.5 - 1.0
        x = photo
        for _, x in self.stages(photo, vectors):  # noqa: B007 (the last one; those before it may be freed)
            pass
        return 127.5 * (self.to_rgb(x, photo, vectors[:, -1:]) + 1.0)

    @property
    def length(self) -> int:
        """Numbers in a style's vector."""
        return sum(table.shape[1] for table in self.tables())

    def tables(self) -> list[keras.Variable]:
        """Return the variables that hold the styles with a name, one row a style, in the order of a vector."""
        norms = [layer.norm for layer in self.normalized()]
        return [*(table for norm in norms for table in (norm.gamma, norm.beta)), self.to_rgb.share]

    def vectors(self, style_weights):
        """Return weighted sums of the styles with a name.

        Args:
            style_weights: float (batch, styles).

        Returns:
            float32 (batch, length): scales and shifts of each normalization in turn, and the photograph's share.
        """
        weights = ops.cast(style_weights, "float32")
        return ops.concatenate([ops.matmul(weights, table) for table in self.tables()], axis=1)

    def scalings(self, vectors) -> Iterator[Scaling]:
        """Yield the scales and shifts of each normalization in turn."""
        begin = 0
        for layer in self.normalized():
            channels = layer.conv.filters
            yield vectors[:, begin : begin + channels], vectors[:, begin + channels : begin + 2 * channels]
            begin += 2 * channels

    def stages(self, photo, vectors) -> Iterator[tuple[str, Any]]:
        """Yield what each layer but the last makes of a picture in [-1, 1], under the layer's name."""
        scalings = self.scalings(ops.cast(vectors, "float32"))
        x = first = self.down[0](photo, next(scalings))
        yield "down 0", x
        for i, layer in enumerate(self.down[1:], 1):
            x = layer(x, next(scalings))
            yield f"down {i}", x
        for i, block in enumerate(self.residuals):
            x = block(x, next(scalings), next(scalings))
            yield f"residual {i}", x
        for i, layer in enumerate(self.up):
            x = layer(x, next(scalings))
            x = x + first if self.skip and i == 0 else x
            yield f"up {i}", x

    def normalized(self) -> list[ConvNorm]:
        """Return all layers but the last, in their order, the two of a residual block apart."""
        blocks = [layer for block in self.residuals for layer in (block.first, block.second)]
        return [*self.down, *blocks, *self.up]

    def convolutions(self) -> list[layers.Conv2D]:
        """Return all convolutions: what the styles have in common."""
        return [*(layer.conv for layer in self.normalized()), self.to_rgb.conv]


Layers = tuple[Sequence[ConvNorm], Sequence[ConvNorm], ToRGB]


def _fast_layers(styles: int, width: int) -> Layers:
    """To a quarter and an eighth of the size, and back."""
    quarter, half = width // 3, width // 6
    down = [ConvNorm(styles, quarter, 8, 4), ConvNorm(styles, width, 3, 2)]
    up = [ConvNorm(styles, quarter, 3, enlarges=True), ConvNorm(styles, half, 3, enlarges=True)]
    return down, up, ToRGB(styles, 3, enlarges=True)


def _johnson_layers(styles: int, width: int) -> Layers:
    """`c9s1-32,d64,d128,...,u64,u32,c9s1-3` for a width of 128."""
    full, half = width // 4, width // 2
    down = [ConvNorm(styles, full, 9), ConvNorm(styles, half, 3, 2), ConvNorm(styles, width, 3, 2)]
    up = [ConvNorm(styles, half, 3, enlarges=True), ConvNorm(styles, full, 3, enlarges=True)]
    return down, up, ToRGB(styles, 9, enlarges=False)


def build(config: StyleNetworkConfig) -> StyleNetwork:
    """Return a network with its variables made."""
    network = StyleNetwork(config)
    network((ops.zeros((1, 16, 16, 3)), ops.ones((1, len(config.styles))) / len(config.styles)))
    return network


def grow(small: StyleNetwork, large: StyleNetwork) -> None:
    """Give `large`, newly built, what `small` computes: Net2Net (Chen, Goodfellow & Shlens 2016).

    No old channel listens to the new ones yet, which are random, and added residual blocks add nothing yet.

    Raises:
        ValueError: `small` is no smaller: another preset or other styles, or more channels or blocks.
    """
    old, new = small.config, large.config
    if (old.preset, old.styles) != (new.preset, new.styles) or old.width > new.width or old.blocks > new.blocks:
        raise ValueError(f"the network is {new}; accepted: {old}, or with more width or blocks")
    for block in large.residuals[old.blocks :]:
        gamma = block.second.norm.gamma
        gamma.assign(ops.zeros_like(gamma))
    kept = [layer for block in large.residuals[: old.blocks] for layer in (block.first, block.second)]
    for source, target in zip(small.normalized(), [*large.down, *kept, *large.up], strict=True):
        _copy_kernel(source.conv, target.conv)
        for name in ("gamma", "beta"):
            _copy_into(getattr(source.norm, name), getattr(target.norm, name))
    _copy_kernel(small.to_rgb.conv, large.to_rgb.conv)
    large.to_rgb.conv.bias.assign(small.to_rgb.conv.bias)
    large.to_rgb.share.assign(small.to_rgb.share)


def _copy_kernel(source: layers.Conv2D, target: layers.Conv2D) -> None:
    """Into the corner of the old channels; what comes from new ones to old ones is zero."""
    _, _, inputs, outputs = source.kernel.shape
    kernel = ops.convert_to_numpy(target.kernel).copy()
    kernel[:, :, inputs:, :outputs] = 0.0
    target.kernel.assign(kernel)
    _copy_into(source.kernel, target.kernel)


def _copy_into(source, target) -> None:
    """Into the corner of a variable with at least the sides of `source`."""
    values = ops.convert_to_numpy(target).copy()
    values[tuple(slice(side) for side in source.shape)] = ops.convert_to_numpy(source)
    target.assign(values)


def with_styles(network: StyleNetwork, vectors: Mapping[str, np.ndarray]) -> StyleNetwork:
    """Return a network with the convolutions of this one, whose styles are vectors, float32 (length,), by their names."""
    made = build(replace(network.config, styles=tuple(vectors)))
    for source, target in zip(network.convolutions(), made.convolutions(), strict=True):
        target.set_weights(source.get_weights())
    rows, begin = np.stack(list(vectors.values())), 0
    for table in made.tables():
        table.assign(rows[:, begin : begin + table.shape[1]])
        begin += table.shape[1]
    return made


def restyle(network: StyleNetwork, image: np.ndarray, style_weights: np.ndarray) -> np.ndarray:
    """Restyle pictures as they are served: pad to the network's multiple, restyle, crop, round.

    Args:
        image: uint8 (batch, height, width, 3), sides of at least 16.
        style_weights: float32 (batch, styles).

    Returns:
        uint8, as `image`.
    """
    return restyle_as(network, image, network.vectors(style_weights))


def restyle_as(network: StyleNetwork, image: np.ndarray, vectors) -> np.ndarray:
    """As `restyle`, in styles that are given as vectors: float (batch, length)."""
    height, width = image.shape[1:3]
    missing = [(0, -side % network.config.multiple) for side in (height, width)]
    padded = np.pad(image.astype(np.float32), [(0, 0), *missing, (0, 0)], mode="reflect")
    return images.to_uint8(ops.convert_to_numpy(network.paint(padded, vectors))[:, :height, :width])
