"""The transformation network: a picture in, the picture in a style out.

Johnson et al. 2016 with conditional instance normalisation (Dumoulin et al. 2017), so that one network
holds several styles and blends them, and with resize-then-convolve against checkerboards. It departs from
both in what it predicts: the change to the photograph, not the painting, which a short training learns
sooner. Knows nothing about losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers, ops

MULTIPLE = 4
"""Height and width go through two halvings; other sizes are padded by reflection and cropped back."""


@dataclass(frozen=True)
class StyleNetworkConfig:
    """Shape of the network.

    Attributes:
        styles: names, in the order of the weight vector.
        width: channels at full, half and quarter resolution are width, 2 width, 4 width.
        blocks: residual blocks at quarter resolution.
    """

    styles: tuple[str, ...]
    width: int = 16
    blocks: int = 5

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) != len(self.styles):
            raise ValueError(f"styles are {list(self.styles)}; accepted: at least one name, each once")
        object.__setattr__(self, "styles", tuple(self.styles))


def reflect_pad(x, before: int, after_height, after_width):
    """Pad height and width of (batch, height, width, channels) by reflection."""
    return ops.pad(x, [[0, 0], [before, after_height], [before, after_width], [0, 0]], mode="reflect")


class ConditionalInstanceNormalization(layers.Layer):
    """Normalise each channel of each image, then scale and shift as the weighted styles say."""

    def __init__(self, styles: int, channels: int):
        super().__init__()
        self.gamma = self.add_weight(shape=(styles, channels), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(styles, channels), initializer="zeros", name="beta")

    def call(self, x, style_weights):
        x32 = ops.cast(x, "float32")
        mean = ops.mean(x32, axis=(1, 2), keepdims=True)
        centred = x32 - mean
        variance = ops.mean(ops.square(centred), axis=(1, 2), keepdims=True)
        weights = ops.cast(style_weights, "float32")
        gamma, beta = ops.matmul(weights, self.gamma), ops.matmul(weights, self.beta)
        scale = ops.rsqrt(variance + 1e-5) * gamma[:, None, None, :]
        return ops.cast(centred * scale + beta[:, None, None, :], x.dtype)


class ConvNorm(layers.Layer):
    """Reflection pad, convolution, conditional instance normalisation, and ReLU unless told otherwise."""

    def __init__(self, styles: int, filters: int, kernel: int, strides: int = 1, activate: bool = True):
        super().__init__()
        self.padding = kernel // 2
        self.conv = layers.Conv2D(filters, kernel, strides, use_bias=False)
        self.norm = ConditionalInstanceNormalization(styles, filters)
        self.activate = activate

    def call(self, x, style_weights):
        x = self.conv(reflect_pad(x, self.padding, self.padding, self.padding))
        x = self.norm(x, style_weights)
        return ops.relu(x) if self.activate else x


class Residual(layers.Layer):
    """Two convolutions added to their input."""

    def __init__(self, styles: int, filters: int):
        super().__init__()
        self.first = ConvNorm(styles, filters, 3)
        self.second = ConvNorm(styles, filters, 3, activate=False)

    def call(self, x, style_weights):
        return x + self.second(self.first(x, style_weights), style_weights)


class StyleNetwork(keras.Model):
    """See the module's docstring."""

    def __init__(self, config: StyleNetworkConfig):
        super().__init__()
        n, w = len(config.styles), config.width
        self.config = config
        self.down = [ConvNorm(n, w, 9), ConvNorm(n, 2 * w, 3, 2), ConvNorm(n, 4 * w, 3, 2)]
        self.residuals = [Residual(n, 4 * w) for _ in range(config.blocks)]
        self.up = [ConvNorm(n, 2 * w, 3), ConvNorm(n, w, 3)]
        self.enlarge = layers.UpSampling2D(2, interpolation="nearest")
        # From zero: training starts at the photograph itself.
        self.to_rgb = layers.Conv2D(3, 9, kernel_initializer="zeros")

    def call(self, inputs):
        """Restyle images.

        Args:
            inputs: `(image, style_weights)`: float (batch, height, width, 3), RGB in [0, 255], height
                and width multiples of `MULTIPLE`, at least 16; float (batch, styles), rows that sum to 1.

        Returns:
            float32 (batch, height, width, 3), nominally in [0, 255], not clipped.
        """
        image, style_weights = inputs
        photo = x = image / 127.5 - 1.0
        for layer in self.down:
            x = layer(x, style_weights)
        for layer in self.residuals:
            x = layer(x, style_weights)
        for layer in self.up:
            x = layer(self.enlarge(x), style_weights)
        rgb = self.to_rgb(reflect_pad(x, 4, 4, 4))
        return (ops.cast(photo, "float32") + ops.cast(rgb, "float32") + 1.0) * 127.5


def build(config: StyleNetworkConfig) -> StyleNetwork:
    """A network with its variables made."""
    network = StyleNetwork(config)
    network((ops.zeros((1, 16, 16, 3)), ops.ones((1, len(config.styles))) / len(config.styles)))
    return network
