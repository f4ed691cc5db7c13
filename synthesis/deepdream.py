"""DeepDream (section 12.2): gradient ascent on a picture, from small octaves to the full size.

With the defaults this is the book's algorithm (listings 12-11 to 12-15), computed on pixels in [0, 255]
instead of [-1, 1]; resizing and ascent are linear in the pixels, so the pictures agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from synthesis import features, images
from synthesis.progress import NotANumberError, OnProgress, Progress

PIXELS_PER_UNIT = 127.5
"""The book's step is for pixels in [-1, 1]."""
BORDER = 2
"""Activations at the border are left out of the loss, against artefacts (listing 12-12)."""


LayerWeight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


def parse_layers(value: Any) -> Any:
    """Read `"mixed4=1.0, mixed5=1.5"` as a dictionary; anything else is left to be validated.

    Raises:
        ValueError: a part of the text is not `name=weight`.
    """
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not name.strip() or not sign for name, sign, _ in pairs):
        raise ValueError("layers are written as name=weight, separated by commas")
    return {name.strip(): weight for name, _, weight in pairs}


class DeepDreamParameters(BaseModel):
    """Settings of one dream; names and defaults are the book's.

    Attributes:
        layers: weight of each layer's mean squared activation; empty takes the extractor's defaults
            (for inception_v3 the book's mixed4 to mixed7).
        step: length of one ascent step along the unit gradient, pixels in [-1, 1].
        num_octave, octave_scale: how many sizes, and the ratio between neighbours.
        iterations: steps an octave.
        max_loss: an octave ends when its loss is above this; 0 never. The book's 15 suits inception_v3.
        features: extractor; "auto" takes inception_v3 where its weights are, else compact.
        size: the picture is shrunk until its longer side is at most this, in pixels.
        preview_every: steps between preview pictures; 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Annotated[dict[str, LayerWeight], BeforeValidator(parse_layers)] = Field(default={}, max_length=16)
    step: float = Field(default=20.0, gt=0, le=1000, allow_inf_nan=False)
    num_octave: int = Field(default=3, ge=1, le=8)
    octave_scale: float = Field(default=1.4, gt=1.0, le=4.0, allow_inf_nan=False)
    iterations: int = Field(default=30, ge=1, le=1000)
    max_loss: float = Field(default=15.0, ge=0, allow_inf_nan=False)
    features: str = "auto"
    size: int = Field(default=1024, ge=images.MIN_SIDE, le=4096)
    preview_every: int = Field(default=0, ge=0, le=10_000)


def octave_shapes(height: int, width: int, num_octave: int, octave_scale: float) -> list[tuple[int, int]]:
    """Sizes from the smallest octave to the full size (listing 12-15)."""
    shapes = [(int(height / octave_scale**i), int(width / octave_scale**i)) for i in range(num_octave)]
    return shapes[::-1]


def dream(
    image: np.ndarray, parameters: DeepDreamParameters, on_progress: OnProgress = lambda progress: None
) -> np.ndarray:
    """Dream on `image`.

    Args:
        image: uint8 (height, width, 3).
        on_progress: called after every step; may raise `Cancelled`, which passes through.

    Returns:
        uint8, the size of `image` shrunk to `parameters.size`.

    Raises:
        FeaturesError: unknown extractor or layer, or weights that are not here.
        ImageError: the smallest octave is too small for the extractor.
        NotANumberError: the loss became NaN or infinite.
    """
    name = parameters.features if parameters.features != "auto" else features.first_available("inception_v3")
    weights = parameters.layers or dict(features.defaults(name).dream_layers)
    ascend = _ascender(name, tuple(weights))
    image = images.fit_within(image, parameters.size)
    height, width, _ = image.shape
    shapes = octave_shapes(height, width, parameters.num_octave, parameters.octave_scale)
    _check_smallest(shapes[0], name)

    original = tf.constant(image[None], tf.float32)
    dreamt, shrunk = original, tf.image.resize(original, shapes[0])
    coefficients = tf.constant(list(weights.values()), tf.float32)
    step_length = tf.constant(parameters.step * PIXELS_PER_UNIT)
    started, done = time.monotonic(), 0
    for octave, shape in enumerate(shapes):
        dreamt = tf.image.resize(dreamt, shape)
        for i in range(parameters.iterations):
            loss, ascended = ascend(dreamt, step_length, coefficients)
            done = octave * parameters.iterations + i + 1
            if not np.isfinite(loss):
                raise NotANumberError(done, _to_image(dreamt))
            dreamt = ascended
            wants_preview = parameters.preview_every and done % parameters.preview_every == 0
            on_progress(
                Progress(
                    step=done,
                    steps=parameters.iterations * len(shapes),
                    stage=octave,
                    loss=float(loss),
                    seconds=time.monotonic() - started,
                    image=_to_image(dreamt) if wants_preview else None,
                )
            )
            if 0 < parameters.max_loss < float(loss):
                break
        dreamt, shrunk = reinject_detail(dreamt, original, shrunk, shape)
    return _to_image(dreamt)


def reinject_detail(dreamt, original, shrunk, shape: tuple[int, int]):
    """Add what the original lost by having been smaller; returns the picture and the original at this size."""
    same_size = tf.image.resize(original, shape)
    return dreamt + same_size - tf.image.resize(shrunk, shape), same_size


@lru_cache(maxsize=8)
def _ascender(name: str, layers: tuple[str, ...]) -> Callable:
    """One compiled ascent step for an extractor and its layers; one trace serves all sizes."""
    extract = features.load(name, layers)

    @tf.function(
        input_signature=[
            tf.TensorSpec((1, None, None, 3), tf.float32),
            tf.TensorSpec((), tf.float32),
            tf.TensorSpec((len(layers),), tf.float32),
        ]
    )
    def ascend(image, step_length, coefficients):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.zeros(())
            for coefficient, activation in zip(tf.unstack(coefficients), extract(image), strict=True):
                inside = activation[:, BORDER:-BORDER, BORDER:-BORDER, :]
                loss += coefficient * tf.reduce_mean(tf.square(inside))
        gradient = tape.gradient(loss, image)
        return loss, image + step_length * tf.math.l2_normalize(gradient)

    return ascend


def _check_smallest(shape: tuple[int, int], name: str) -> None:
    smallest = features.defaults(name).dream_min_side
    if min(shape) < smallest:
        raise images.ImageError(
            f"image: its smallest octave is {shape[1]}x{shape[0]} pixels; accepted by {name}: sides of at least "
            f"{smallest}; send a larger image, or fewer octaves (num_octave) or a smaller octave_scale"
        )


def _to_image(pixels) -> np.ndarray:
    return images.to_uint8(pixels.numpy()[0])
