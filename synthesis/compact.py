"""The compact feature extractor: a student of VGG19 with the same layer names, channels and scale.

A narrow trunk with one linear read-out per layer, so that a loss written for VGG19 (its Gram matrices,
its content layer, the book's weights) can be used unchanged at about a fifth of the arithmetic.
Trained by `training.features`; `weights/README.md` is its card.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

WEIGHTS = Path(str(files("synthesis") / "weights" / "compact.npz"))
LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1", "block5_conv2")
_CHANNELS = dict(zip(LAYERS, (64, 128, 256, 512, 512, 512), strict=True))
_SCALES = dict(zip(LAYERS, (40.0, 200.0, 260.0, 900.0, 140.0, 67.0), strict=True))
"""Root mean square of VGG19's activations on photographs; the trunk itself works with values near 1."""


class _Leaky(layers.Layer):
    """LeakyReLU, as a product: TensorFlow's own has a gradient in bfloat16 that takes five times as long on a CPU."""

    def __init__(self, slope: float, **kwargs):
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, x):
        factor = ops.cast(x > 0, x.dtype) * (1 - self.slope) + self.slope
        return x * ops.stop_gradient(factor)

    def get_config(self):
        return super().get_config() | {"slope": self.slope}


def _conv(x, filters: int, size: int = 3):
    x = layers.Conv2D(filters, size, padding="same", kernel_initializer="he_normal")(x)
    # A plain ReLU dies in a regression whose targets are mostly zero: it never gets a gradient again.
    return _Leaky(0.1)(x)


def _further(x):
    """One more layer that begins as little more than the identity."""
    return layers.Add()([x, _conv(x, x.shape[-1])])


def _half(x):
    return layers.MaxPooling2D()(x)


def _read_out(x, name: str):
    wide = layers.Conv2D(_CHANNELS[name], 1, kernel_initializer="he_normal")(x)
    return layers.Rescaling(_SCALES[name], name=name)(_Leaky(0.02)(wide))


def build_untrained() -> keras.Model:
    """Return the untrained network, from float (batch, height, width, 3) in [-1, 1] to the activations of `LAYERS`."""
    image = keras.Input((None, None, 3))
    first = _conv(image, 64)
    second = _conv(_half(_conv(_conv(first, 32, 1), 32)), 64)
    third = _conv(_half(_conv(second, 64)), 128)
    fourth = _conv(_half(_further(_conv(third, 128))), 224)
    fifth = _conv(_half(_further(_further(fourth))), 224)
    sixth = _conv(fifth, 224)
    trunk = (first, second, third, fourth, fifth, sixth)
    return keras.Model(image, [_read_out(x, name) for x, name in zip(trunk, LAYERS, strict=True)], name="compact")


def build() -> keras.Model:
    """Return the trained network."""
    model = build_untrained()
    with np.load(WEIGHTS) as data:
        model.set_weights([data[f"w{i}"].astype(np.float32) for i in range(len(data.files))])
    return model


def save_weights(model: keras.Model, path: Path) -> None:
    """Write the weights as float16 arrays `w0`, `w1`, ... in the order of `get_weights`."""
    np.savez_compressed(path, **{f"w{i}": w.astype(np.float16) for i, w in enumerate(model.get_weights())})
