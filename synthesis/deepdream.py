"""DeepDream (section 12.2): gradient ascent on a picture, from small octaves to the full size.

With the recipe `book` this is the book's algorithm (listings 12-11 to 12-15), computed on pixels in [0, 255]
instead of [-1, 1]; resizing and ascent are linear in the pixels, so the pictures agree. Its steps are so long that
grain and clipped colors grow. The default recipe departs from it: short steps on a picture that is rolled before each,
along a gradient into which its blur is mixed, over one more octave. Forms grow then. What else the field has is off
unless asked for: tiles, single channels, a guide, zoom sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf
from pydantic import ConfigDict, Field

from imaging import colors, images
from reverie.errors import InputError
from synthesis import checkpoints, features
from synthesis.ascent import ascent, gradient_ascent, roll, smoothed
from synthesis.layer_weights import LayerWeights
from synthesis.progress import Clock, NotANumberError, OnProgress, Progress
from synthesis.recipes import WithRecipes

UNTILED_PIXELS, LARGE_TILE = 2**21, 512
"""Above so many pixels tiles of that side are used automatically: a whole gradient would take gigabytes."""
MOST_OCTAVES = 4
"""The largest number of octaves that is chosen automatically."""
PIXELS_PER_UNIT = 127.5
"""The book's step is for pixels in [-1, 1]."""


class DeepDreamParameters(WithRecipes):
    """Settings of one dream; names are the book's, and so are the defaults with the recipe `book`.

    Attributes:
        recipe: "forms", or "book" for other defaults of step, num_octave, iterations, max_loss, jitter, smooth and
            precision; see `RECIPES`.
        layers: weight of each layer's mean squared activation; empty takes the extractor's defaults
            (for inception_v3 the book's mixed4 to mixed7). `name:channel` is a single channel of a layer.
        step: length of one ascent step along the unit gradient, pixels in [-1, 1].
        num_octave, octave_scale: how many sizes, and the ratio between neighbors; 0 takes as many as the picture has
            room for, at most 4.
        iterations: steps an octave.
        max_loss: an octave ends when its loss is above this; 0 never. The book's 15 suits inception_v3.
        features: extractor; "auto" takes inception_v3 where its weights are, else compact.
        size: the picture is shrunk until its longer side is at most this, in pixels.
        preview_every: steps between preview pictures; 0 for none.
        jitter: the picture is rolled by up to so many pixels before each gradient, and back after it.
        tile: side of the tiles in which the gradient of a large picture is computed, in pixels; 0 for
            none up to 2 million pixels, and 512 above.
        smooth: standard deviation of the blur that is mixed into the gradient, in pixels; 0 for none.
        strength: of the change: 0 is the photograph, 1 the dream, above it exaggerates.
        preserve_colors: dream in luminance only, and keep the photograph's colors.
        frames, zoom: pictures of a zoom sequence, each dreamed from the one before enlarged by `zoom`.
        precision: of the convolutions. "float32" gives the book's picture within rounding; "auto" folds the batch
            normalizations and takes bfloat16 where the processor has it; the dream is then another one, as good.
        max_seconds: the picture so far is returned after this time; 0 for no limit.
        seed: for the random jitter and the random positions of the tiles.
    """

    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "book": {
            "step": 20.0,
            "num_octave": 3,
            "iterations": 30,
            "max_loss": 15.0,
            "jitter": 0,
            "smooth": 0.0,
            "precision": "float32",
        }
    }
    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Literal["forms", "book"] = "forms"
    layers: LayerWeights = Field(default={}, max_length=16)
    step: float = Field(default=5.0, gt=0, le=1000, allow_inf_nan=False)
    num_octave: int = Field(default=0, ge=0, le=8)
    octave_scale: float = Field(default=1.4, gt=1.0, le=4.0, allow_inf_nan=False)
    iterations: int = Field(default=20, ge=1, le=1000)
    max_loss: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    features: str = "auto"
    size: int = Field(default=1024, ge=images.MIN_SIDE, le=4096)
    preview_every: int = Field(default=0, ge=0, le=10_000)
    jitter: int = Field(default=32, ge=0, le=512)
    tile: int = Field(default=0, ge=0, le=2048)
    smooth: float = Field(default=0.5, ge=0, le=4, allow_inf_nan=False)
    strength: float = Field(default=1.0, ge=0, le=4, allow_inf_nan=False)
    preserve_colors: bool = False
    frames: int = Field(default=1, ge=1, le=1000)
    zoom: float = Field(default=1.05, ge=1.0, le=2.0, allow_inf_nan=False)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_seconds: float = Field(default=0.0, ge=0, le=86_400, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def extractor(self) -> str:
        """Name of the extractor that is taken on this machine."""
        return features.chosen(self.features, "inception_v3")


def useful_octaves(shortest: int, least: int, octave_scale: float) -> int:
    """Return how many octaves a picture has room for, 1 to `MOST_OCTAVES`.

    Args:
        shortest: its shorter side; least: that of the smallest octave, both in pixels.
    """
    return 1 + sum(int(shortest / octave_scale**i) >= least for i in range(1, MOST_OCTAVES))


def octave_shapes(height: int, width: int, num_octave: int, octave_scale: float) -> list[tuple[int, int]]:
    """Return the sizes from the smallest octave to the full size (listing 12-15)."""
    shapes = [(int(height / octave_scale**i), int(width / octave_scale**i)) for i in range(num_octave)]
    return shapes[::-1]


def shapes_of(height: int, width: int, parameters: DeepDreamParameters) -> list[tuple[int, int]]:
    """Return the sizes of the octaves of one dream, the smallest first."""
    least = features.defaults(parameters.extractor).dream_min_side
    octaves = parameters.num_octave or useful_octaves(min(height, width), least, parameters.octave_scale)
    return octave_shapes(height, width, octaves, parameters.octave_scale)


def pixel_steps(height: int, width: int, parameters: DeepDreamParameters) -> int:
    """Return the most work that a dream can be: all its steps, each times the pixels of its octave."""
    height, width = images.size_within(height, width, parameters.size)
    shapes = shapes_of(height, width, parameters)
    return parameters.frames * parameters.iterations * sum(h * w for h, w in shapes)


def dream(
    image: np.ndarray,
    parameters: DeepDreamParameters,
    on_progress: OnProgress = lambda progress: None,
    guide: np.ndarray | None = None,
) -> np.ndarray:
    """Dream: change a picture so that the layers of a network respond more strongly (section 12.2).

    Args:
        image: uint8 (height, width, 3).
        on_progress: called after every step, and after every frame of a zoom sequence; may raise `Cancelled`,
            which passes through.
        guide: uint8 (height, width, 3); the dream then strengthens, at each place, what it shares with the
            most similar place of this picture instead of whatever is there.

    Returns:
        uint8, the size of `image` shrunk to `parameters.size`; of a zoom sequence the last frame.

    Raises:
        FeaturesError: unknown extractor, layer or channel, or weights that are not here.
        ImageError: the smallest octave, a tile or the guide is too small for the extractor.
        NotANumberError: the loss became NaN or infinite.

    Example:
        >>> photo = images.read(Path("photo.jpg"))
        >>> dreamed = dream(photo, DeepDreamParameters(size=640, iterations=10))
    """
    images.check_pixels(image)
    image = images.fit_within(image, parameters.size)
    job = DreamJob(image.shape[0], image.shape[1], parameters, on_progress, guide)
    frame = image
    for number in range(1, parameters.frames + 1):
        frame = job.dream(frame if number == 1 else zoomed(frame, parameters.zoom))
        if parameters.frames > 1:
            job.tell_frame(number, frame)
        if job.stopped:
            break
    return frame


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the middle of the picture, uint8 (height, width, 3) or (height, width), enlarged to its size."""
    height, width = image.shape[:2]
    inner = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return images.resize(image[top : top + inner[0], left : left + inner[1]], height, width)


def reinject_detail(dreamed, original, shrunk, shape: Sequence[int]):
    """Add what the original lost by having been smaller; returns the picture and the original at this size."""
    same_size = tf.image.resize(original, shape)
    return dreamed + same_size - tf.image.resize(shrunk, shape), same_size


class DreamJob:
    """One request: its compiled ascent, its steps so far and its time."""

    def __init__(
        self,
        height: int,
        width: int,
        parameters: DeepDreamParameters,
        on_progress: OnProgress,
        guide: np.ndarray | None,
    ):
        p = self._parameters = parameters
        name = p.extractor
        weights = p.layers or dict(features.defaults(name).dream_layers)
        self._names = tuple(weights)
        self._kind = (name, self._names, features.dtype_of(p.precision), guide is not None, p.precision != "float32")
        plain = ascent(*self._kind)
        self._is_exact = features.dtype_of(p.precision) == "float32"
        self._coefficients = tf.constant(list(weights.values()), tf.float32)
        self._shapes = shapes_of(height, width, p)
        _check_sides(self._shapes[0], name, p.tile)
        self._guide = plain.guide(guide)
        self._random = np.random.default_rng(p.seed)
        self._on_progress, self._clock = on_progress, Clock(p.max_seconds)
        self._frame = self._step = 0
        self._loss = 0.0
        self.stopped = ""

    def dream(self, image: np.ndarray) -> np.ndarray:
        """Ascend in all octaves (listing 12-15); when the time is up, return the picture so far at full size."""
        original = tf.constant(image[None], tf.float32)
        dreamed, shrunk = original, tf.image.resize(original, self._shapes[0])
        for octave, shape in enumerate(self._shapes):
            checkpoints.checkpoint()
            dreamed = self._ascend(tf.image.resize(dreamed, shape), octave)
            dreamed, shrunk = reinject_detail(dreamed, original, shrunk, shape)
            if self.stopped:
                break
        if self.stopped:
            dreamed, _ = reinject_detail(tf.image.resize(dreamed, image.shape[:2]), original, shrunk, image.shape[:2])
        self._frame += 1
        return self._finished(dreamed.numpy()[0], image)

    def tell_frame(self, number: int, frame: np.ndarray) -> None:
        """Report a finished frame of a zoom sequence."""
        steps = self._steps
        self._on_progress(
            Progress(
                self._step, steps, len(self._shapes) - 1, self._loss, self._clock.seconds(), frame, frame=number,
                stopped=self.stopped,
            )
        )  # fmt: skip

    @property
    def _steps(self) -> int:
        return self._parameters.iterations * len(self._shapes) * self._parameters.frames

    def _ascend(self, dreamed, octave: int):
        """One octave (listing 12-13)."""
        p = self._parameters
        for i in range(p.iterations):
            self._step = (self._frame * len(self._shapes) + octave) * p.iterations + i + 1
            loss, parts, ascended = self._one_step(dreamed)
            self._loss = float(loss)
            if not np.isfinite(self._loss):
                raise NotANumberError(self._step, images.to_uint8(dreamed.numpy()[0]))
            dreamed = ascended
            self._tell_step(dreamed, octave, parts)
            if self.stopped or 0 < p.max_loss < self._loss:
                break
        return dreamed

    def _one_step(self, dreamed):
        """Loss, its parts and the picture after a step."""
        p = self._parameters
        shift = self._shift(p.jitter)
        rolled = roll(dreamed, shift)
        tile = p.tile or (LARGE_TILE if dreamed.shape[1] * dreamed.shape[2] > UNTILED_PIXELS else 0)
        if 0 < tile < max(dreamed.shape[1:3]):
            offset = self._random.integers(0, tile, 2)
            at_once = ascent(*self._kind, checkpoints.is_large(tile**2))
            loss, parts, gradient = at_once.tiled_gradient(
                rolled, self._coefficients, self._guide, tile, (int(offset[0]), int(offset[1]))
            )
        else:
            at_once = ascent(*self._kind, checkpoints.is_large(dreamed.shape[1] * dreamed.shape[2]))
            loss, parts, gradient = at_once.whole_gradient(rolled, self._coefficients, self._guide)
        gradient = roll(gradient, (-shift[0], -shift[1]))
        if p.smooth:
            gradient = smoothed(gradient, p.smooth)
        return loss, parts, gradient_ascent(dreamed, gradient, p.step * PIXELS_PER_UNIT)

    def _shift(self, jitter: int) -> tuple[int, int]:
        if not jitter:
            return 0, 0
        down, right = self._random.integers(-jitter, jitter + 1, 2)
        return int(down), int(right)

    def _tell_step(self, dreamed, octave: int, parts) -> None:
        every = self._parameters.preview_every
        self.stopped = self._clock.stopped()
        self._on_progress(
            Progress(
                step=self._step,
                steps=self._steps,
                stage=octave,
                loss=self._loss,
                seconds=self._clock.seconds(),
                image=images.to_uint8(dreamed.numpy()[0]) if every and self._step % every == 0 else None,
                exact=self._is_exact,
                parts=dict(zip(self._names, parts.numpy().tolist(), strict=True)),
                stopped=self.stopped,
            )
        )

    def _finished(self, pixels: np.ndarray, image: np.ndarray) -> np.ndarray:
        p = self._parameters
        if p.strength != 1:
            pixels = image + p.strength * (pixels - image)
        if p.preserve_colors:
            pixels = colors.with_colors_of(pixels, image)
        return images.to_uint8(pixels)


def _check_sides(smallest: tuple[int, int], name: str, tile: int) -> None:
    accepted = features.defaults(name).dream_min_side
    if min(smallest) < accepted:
        raise images.ImageError(
            f"image: its smallest octave is {smallest[1]}x{smallest[0]} pixels; accepted by {name}: sides of at least "
            f"{accepted}; send a larger image, a larger size, fewer octaves (num_octave) or a smaller octave_scale"
        )
    if 0 < tile < accepted:
        raise InputError(f"tile: {tile}; accepted by {name}: 0, or {accepted} to 2048")
