"""Feature extractors: an RGB image in, named layer activations out.

`vgg19` and `inception_v3` are ImageNet networks of `keras.applications`, read from a local file or the
Keras cache; `compact` is this project's own student of VGG19 and ships with it. All take pixels in
[0, 255], RGB, and do their own preprocessing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from reverie.errors import InputError
from synthesis import checkpoints, compact

WEIGHTS_DIR_VARIABLE = "REVERIE_WEIGHTS_DIR"


class FeaturesError(InputError):
    """An extractor or a layer that is not there; the message lists what is."""


@dataclass(frozen=True)
class Extractor:
    """How to build an extractor, what its weight file may be called, and its default layers.

    `dream_min_side` is the side in pixels at which the deepest layer still has cells inside the border
    that DeepDream leaves out.
    """

    build: Callable[[], keras.Model]
    preprocess: Callable
    files: tuple[str, ...]
    dream_min_side: int
    style_layers: tuple[str, ...] = ()
    content_layer: str = ""
    dream_layers: tuple[tuple[str, float], ...] = ()


def _vgg_preprocess(image):
    """RGB to BGR, minus the ImageNet mean: what the published weights expect."""
    return image[..., ::-1] - ops.convert_to_tensor([103.939, 116.779, 123.68], dtype=image.dtype)


def _unit_preprocess(image):
    """[0, 255] to [-1, 1]."""
    return image / 127.5 - 1.0


_VGG_STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
_VGG_CONTENT = "block5_conv2"

_EXTRACTORS = {
    "vgg19": Extractor(
        build=lambda: keras.applications.VGG19(weights=None, include_top=False),
        preprocess=_vgg_preprocess,
        files=("vgg19_notop.weights.h5", "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        dream_min_side=80,
        style_layers=_VGG_STYLE,
        content_layer=_VGG_CONTENT,
        dream_layers=(("block4_conv3", 1.0), ("block5_conv2", 1.0)),
    ),
    "inception_v3": Extractor(
        build=lambda: keras.applications.InceptionV3(weights=None, include_top=False),
        preprocess=_unit_preprocess,
        files=("inception_v3_notop.weights.h5", "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        dream_min_side=112,
        dream_layers=(("mixed4", 1.0), ("mixed5", 1.5), ("mixed6", 2.0), ("mixed7", 2.5)),
    ),
    "compact": Extractor(
        build=compact.build,
        preprocess=_unit_preprocess,
        files=(),
        dream_min_side=80,
        style_layers=_VGG_STYLE,
        content_layer=_VGG_CONTENT,
        dream_layers=(("block4_conv1", 1.0), ("block5_conv1", 1.0)),
    ),
}

NAMES = tuple(_EXTRACTORS)


def weights_path(name: str) -> Path | None:
    """Return the local weight file of `name`: in $REVERIE_WEIGHTS_DIR, else in the Keras cache, else None.

    Raises:
        FeaturesError: the name is unknown.
    """
    described = defaults(name)
    if name == "compact":
        return compact.WEIGHTS
    folders = [Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"]
    if os.environ.get(WEIGHTS_DIR_VARIABLE):
        folders.insert(0, Path(os.environ[WEIGHTS_DIR_VARIABLE]))
    return next((f / file for f in folders for file in described.files if (f / file).exists()), None)


def available() -> list[str]:
    """Return the extractors whose weights are on this machine."""
    return [name for name in NAMES if (path := weights_path(name)) and path.exists()]


def first_available(*names: str) -> str:
    """Return the first of `names` whose weights are on this machine; "compact" always is."""
    return next((name for name in names if name in available()), "compact")


def chosen(name: str, preferred: str) -> str:
    """Return `name`; for "auto" `preferred` where its weights are on this machine, else "compact"."""
    return first_available(preferred) if name == "auto" else name


def defaults(name: str) -> Extractor:
    """Return the default layers of an extractor, and the smallest image side it takes.

    Raises:
        FeaturesError: the name is unknown.
    """
    if name not in _EXTRACTORS:
        raise FeaturesError(f"features: {name!r} is unknown; accepted: {', '.join(NAMES)}")
    return _EXTRACTORS[name]


def layer_names(name: str) -> list[str]:
    """Return the names of an extractor's layers, in order of depth."""
    return [layer.name for layer in network(name).layers[1:]]


def channels(name: str, layer: str) -> int:
    """Return how many channels a layer has.

    Raises:
        FeaturesError: the extractor has no such layer.
    """
    return int(_layer(name, layer).output.shape[-1])


def load(
    name: str,
    layers: Sequence[str],
    dtype: str = "float32",
    pooling: str = "max",
    folded: bool = False,
    pauses: bool = False,
) -> Callable:
    """Return an extractor cut at the deepest layer it needs.

    Args:
        name: one of `available()`.
        layers: names out of `layer_names(name)`.
        dtype: of the convolutions, "float32" or "bfloat16"; see `fast_dtype`.
        pooling: "max", or "average" in place of every maximum (Gatys et al. found it smoother).
        folded: fold batch normalizations into convolutions: the same network, faster, but rounded otherwise.
        pauses: put checkpoints between the convolutions; see `synthesis.checkpoints`.

    Returns:
        A function from float (batch, height, width, 3), RGB in [0, 255], to a list of activations,
        one a layer, in the order of `layers`, of type `dtype` or float32.

    Raises:
        FeaturesError: unknown extractor or layer, or weights that are not on this machine.

    Example:
        >>> extract = load("compact", ["block1_conv1", "block5_conv2"])
        >>> shallow, deep = extract(np.zeros((1, 64, 64, 3), np.float32))
    """
    for layer in layers:
        _layer(name, layer)
    full = _adapted(name, dtype, pooling, folded)
    model = keras.Model(full.inputs[0], [full.get_layer(layer).output for layer in layers])
    model = checkpoints.pausing(model) if pauses else model
    preprocess = defaults(name).preprocess

    def features(image):
        activations = model(preprocess(image), training=False)
        return activations if isinstance(activations, (list, tuple)) else [activations]

    return features


def _layer(name: str, layer: str) -> keras.Layer:
    if layer not in layer_names(name):
        raise FeaturesError(f"layer: {layer!r} is not in {name}; accepted: {', '.join(_suggested(name))}")
    return network(name).get_layer(layer)


@lru_cache(maxsize=len(_EXTRACTORS))
def network(name: str) -> keras.Model:
    """Return the whole extractor with its weights, frozen, without its preprocessing. It is loaded once.

    Raises:
        FeaturesError: the name is unknown, or its weights are not on this machine.
    """
    described, path = defaults(name), weights_path(name)
    if path is None:
        raise FeaturesError(
            f"features: the weights of {name} are not on this machine; accepted here: {', '.join(available())}; "
            f"to add them run 'reverie weights {name}', or put {described.files[0]} into a folder and name that folder in --weights-dir"
        )
    model = described.build()
    model.trainable = False
    if name != "compact":
        model.load_weights(path)
    return model


def fold_normalization(model: keras.Model) -> keras.Model:
    """Return the same network with each batch normalization folded into the convolution before it.

    A normalization with fixed statistics is a scale and a shift of each channel. Layers keep their names.
    """
    followers = {_source(layer).name: layer for layer in model.layers if _is_normalization(layer)}
    if not followers:
        return model

    def fold(layer: keras.Layer) -> keras.Layer:
        if _is_normalization(layer):
            return _Folded(name=layer.name)
        extra = {"use_bias": True} if layer.name in followers else {}
        return type(layer).from_config(layer.get_config() | extra)

    folded = keras.models.clone_model(model, clone_function=fold)
    for layer in model.layers:
        if layer.name in followers:
            folded.get_layer(layer.name).set_weights(_scaled_weights(layer, followers[layer.name]))
    folded.trainable = False
    return folded


class _Folded(keras.layers.Layer):
    """In a normalization's place, called like one: what comes in is normalized already."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def _is_normalization(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _source(layer: keras.Layer) -> keras.Layer:
    return layer.input._keras_history.operation


def _scaled_weights(convolution: keras.Layer, normalization: keras.Layer) -> list[np.ndarray]:
    kernel, *bias = convolution.get_weights()
    gamma = normalization.gamma.numpy() if normalization.scale else 1.0
    factor = gamma / np.sqrt(normalization.moving_variance.numpy() + normalization.epsilon)
    shift = (bias[0] if bias else 0.0) - normalization.moving_mean.numpy()
    return [kernel * factor, shift * factor + (normalization.beta.numpy() if normalization.center else 0.0)]


@lru_cache(maxsize=2 * len(_EXTRACTORS))
def _adapted(name: str, dtype: str, pooling: str, folded: bool) -> keras.Model:
    """The network in another arithmetic or with another pooling.

    The first convolution stays in float32: rounding pixels to the 8 bits of bfloat16 would lose the last
    steps of an optimization, and it is a small part of the work.
    """
    full = fold_normalization(network(name)) if folded else network(name)
    if (dtype, pooling) == ("float32", "max"):
        return full
    first = next(layer.name for layer in full.layers if isinstance(layer, keras.layers.Conv2D))

    def adapt(layer: keras.Layer) -> keras.Layer:
        is_pooling = pooling == "average" and isinstance(layer, keras.layers.MaxPooling2D)
        kind = keras.layers.AveragePooling2D if is_pooling else type(layer)
        exact = layer.name == first or isinstance(layer, keras.layers.InputLayer)
        return kind.from_config(layer.get_config() | {"dtype": "float32" if exact else dtype})

    model = keras.models.clone_model(full, clone_function=adapt)
    for ours, theirs in zip(model.layers, full.layers, strict=True):
        ours.set_weights(theirs.get_weights())
    model.trainable = False
    return model


@lru_cache(maxsize=1)
def fast_dtype() -> str:
    """Return "bfloat16" where this machine multiplies it faster than float32, else "float32"."""
    if tf.config.list_physical_devices("GPU"):
        capability = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return "bfloat16" if capability.get("compute_capability", (0, 0)) >= (8, 0) else "float32"
    processor = Path("/proc/cpuinfo")
    flags = processor.read_text() if processor.is_file() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def dtype_of(precision: str) -> str:
    """Return the arithmetic of a `precision` parameter: "auto" is `fast_dtype`."""
    return fast_dtype() if precision == "auto" else precision


def _suggested(name: str) -> list[str]:
    """Layer names short enough for a message: blocks, not every normalization and pooling."""
    return [n for n in layer_names(name) if n.startswith(("mixed", "block")) and not n.endswith("pool")]


def download(name: str) -> Path:
    """Fetch ImageNet weights into the Keras cache with `keras.applications`, which checks them; return their file."""
    builders = {"vgg19": keras.applications.VGG19, "inception_v3": keras.applications.InceptionV3}
    if name not in builders:
        raise FeaturesError(f"weights: {name!r} is not downloadable; accepted: {', '.join(builders)}")
    builders[name](weights="imagenet", include_top=False)
    path = weights_path(name)
    assert path is not None
    return path
