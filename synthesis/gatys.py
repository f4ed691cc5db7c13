"""Neural style transfer by optimization (Gatys et al. 2015; section 12.3).

The book's objective: VGG19, content at block5_conv2, Gram matrices at five layers, total variation to the 1.25. With
the recipe `book` its three weights too, over all numbers that a pixel could be. The default recipe departs in both:
content weighs 40 times as much, so that faces and windows stay, and pixels stay in [0, 255], so that what is reported is
the loss of the picture that is returned. In its work it departs from the book in any case:

- the targets are computed once instead of in every step (a third of the arithmetic);
- the default optimizer is Gatys' L-BFGS (SciPy's) instead of SGD;
- it starts from the photograph in the painting's colors, at half the size, where a step costs a quarter;
- until the last steps the convolutions run in bfloat16 where the processor has it, and the network ends before
  the layers that hold next to nothing of the loss; the last steps have all layers in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from imaging import colors, images
from reverie.errors import InputError
from synthesis import checkpoints, features
from synthesis.layer_weights import LayerWeights, parse_numbers
from synthesis.objective import (
    Evaluation,
    Objective,
    Style,
    Targets,
    compiled,
    layers_of,
    make_targets,
    restricted,
    without_negligible,
)
from synthesis.optimizers import OPTIMIZERS
from synthesis.progress import Clock, NotANumberError, OnProgress, Progress, TimeUpError
from synthesis.recipes import WithRecipes
from synthesis.stages import Stage, plan

MAX_STYLES = 8
MAX_STYLE_PIXELS = 2048 * 2048
"""Of a style at `style_scale`."""
MAX_SIZE = 2048
"""Longer side of a result, in pixels."""
NEGLIGIBLE = 0.01
"""The deepest layers that together held less of the loss at the size before are left out until the exact steps.
VGG19 then often ends at block4_conv1, for a third less work."""

Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class GatysParameters(WithRecipes):
    """Settings of one transfer; layers are the book's, and with the recipe `book` all weights.

    Attributes:
        recipe: "balanced", or "book" for other defaults of content_weight and bounded; see `RECIPES`.
        steps: iterations of the optimizer, at all sizes together.
        optimizer: "lbfgs" (SciPy's), "sgd" (the book's schedule: rate x 0.96 every 100 steps, at one size and
            in float32) or "adam".
        learning_rate: of sgd and adam, pixels in [0, 255]; 0 takes 100 for sgd (meant for pictures 400
            pixels high) and 5 for adam.
        content_weight, style_weight, total_variation_weight: of the three losses (listing 12-22).
        style_layers, content_layers: weight of each layer beside the others, as `name=weight, ...`; empty
            takes the book's, each 1. A style layer's weight is `style_weight` times this over their number.
        style_weights: share of each style image, in their order; empty gives all the same.
        style_scale: size of the style image over that of the picture: above 1 gives larger strokes.
        pooling: "max" as in VGG19, or "average".
        bounded: keep every pixel in [0, 255] in every step; else only the result is clipped.
        preserve_colors: paint in luminance only, and keep the photograph's colors.
        initial: start from the content picture, from the style picture (stretched) or from noise.
        scales: sizes, each twice the one before; 0 chooses.
        precision: of the convolutions before the last steps; "auto" is bfloat16 where the machine is faster
            in it. The last tenth of the steps is always float32.
        features: extractor; "auto" takes vgg19 where its weights are, else compact.
        size: longer side of the result in pixels; a smaller picture keeps its size.
        preview_every: steps between preview pictures; 0 for none.
        max_seconds: the best picture so far is returned after this time; 0 for no limit.
        seed: for the noise.
    """

    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"book": {"content_weight": 2.5e-8, "bounded": False}}
    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Literal["balanced", "book"] = "balanced"
    steps: int = Field(default=100, ge=1, le=10_000)
    optimizer: Literal["lbfgs", "sgd", "adam"] = "lbfgs"
    learning_rate: float = Field(default=0.0, ge=0, le=1000, allow_inf_nan=False)
    content_weight: Weight = 1e-6
    style_weight: Weight = 1e-6
    total_variation_weight: Weight = 1e-6
    style_layers: LayerWeights = Field(default={}, max_length=16)
    content_layers: LayerWeights = Field(default={}, max_length=16)
    style_weights: Annotated[tuple[Weight, ...], BeforeValidator(parse_numbers)] = Field(
        default=(), max_length=MAX_STYLES
    )
    style_scale: float = Field(default=1.0, ge=0.25, le=4.0, allow_inf_nan=False)
    pooling: Literal["max", "average"] = "max"
    bounded: bool = True
    preserve_colors: bool = False
    initial: Literal["content", "style", "noise"] = "content"
    scales: int = Field(default=0, ge=0, le=5)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    features: str = "auto"
    size: int = Field(default=400, ge=64, le=MAX_SIZE)
    preview_every: int = Field(default=0, ge=0, le=10_000)
    max_seconds: float = Field(default=0.0, ge=0, le=86_400, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def extractor(self) -> str:
        """Name of the extractor that is taken on this machine."""
        return features.chosen(self.features, "vgg19")


BOOK = GatysParameters(recipe="book")
"""For judging pictures by the book's objective."""


def objective(name: str) -> Objective:
    """Return the book's objective on an extractor, in float32."""
    return compiled(layers_of(name))


def book_targets(
    goal: Objective, content: np.ndarray, style: np.ndarray, parameters: GatysParameters, style_size: int = 0
) -> Targets:
    """Return the targets by which the objective of `parameters` judges any picture of the size of `content`.

    Args:
        style_size: as in `synthesis.objective.make_targets`.
    """
    return _targets(goal, content, [Style(style)], parameters, 1.0, style_size)


def transfer(
    content: np.ndarray,
    style: np.ndarray | Sequence[np.ndarray],
    parameters: GatysParameters,
    on_progress: OnProgress = lambda progress: None,
    masks: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Paint `content` in the style of `style` by optimization (Gatys et al. 2015).

    Args:
        content: uint8 (height, width, 3).
        style: one uint8 (height, width, 3) or several, of any sizes.
        on_progress: called after every step; may raise `Cancelled`, which passes through.
        masks: none, or one for each style: uint8 (height, width) or (height, width, 3) of the size of
            `content`; white is where that style belongs.

    Returns:
        uint8, the size of `content` shrunk to `parameters.size`.

    Raises:
        FeaturesError: unknown extractor or layer, or weights that are not here.
        ImageError: a mask of another size than `content`, or a shorter side that is too small once shrunk.
        InputError: another number of weights or masks than of styles, or of styles than is accepted.
        NotANumberError: the loss became NaN or infinite.

    Example:
        >>> photo, painting = (images.read(Path(name)) for name in ("photo.jpg", "painting.jpg"))
        >>> painted = transfer(photo, painting, GatysParameters(steps=50, size=400))
    """
    given = [style] if isinstance(style, np.ndarray) else list(style)
    for picture, name in [(content, "image"), *((s, "style_image") for s in given)]:
        images.check_pixels(picture, name)
    styles = _styles(content, given, parameters, masks)
    height, width = content.shape[:2]
    content = images.resize(content, *images.shrunk_size(height, width, parameters.size, largest=MAX_SIZE))
    _check_style_scale(content, parameters.style_scale)
    if parameters.preserve_colors:
        photo, content = content, colors.luminance(content)
        styles = [Style(colors.luminance(s.image), s.weight, s.mask) for s in styles]
        painted = TransferJob(content, styles, parameters, on_progress).run()
        return images.to_uint8(colors.with_colors_of(painted, photo))
    return images.to_uint8(TransferJob(content, styles, parameters, on_progress).run())


def _check_style_scale(content: np.ndarray, scale: float) -> None:
    """Styles are looked at in one piece, which takes memory for all their pixels."""
    height, width = content.shape[:2]
    pixels = height * width * scale**2
    if scale > 1 and pixels > MAX_STYLE_PIXELS:
        accepted = (MAX_STYLE_PIXELS / (height * width)) ** 0.5
        raise InputError(
            f"style_scale: {scale:g} for {width}x{height} pixels; accepted: 0.25 to {max(1, accepted):.3g}"
        )


def _styles(
    content: np.ndarray, given: list[np.ndarray], parameters: GatysParameters, masks: Sequence[np.ndarray]
) -> list[Style]:
    """The style pictures with their shares, which sum to 1, and their regions."""
    if not 1 <= len(given) <= MAX_STYLES:
        raise InputError(f"style_image: {len(given)} pictures; accepted: 1 to {MAX_STYLES}")
    weights = np.array(parameters.style_weights or [1.0] * len(given))
    if len(weights) != len(given) or not weights.sum() > 0:
        raise InputError(
            f"style_weights: {parameters.style_weights} for {len(given)} style images; accepted: none, or "
            "one for each, not all 0"
        )
    if len(masks) not in (0, len(given)):
        raise InputError(
            f"style_mask: {len(masks)} masks for {len(given)} style images; accepted: none, or one for each"
        )
    regions: list[np.ndarray | None] = [_region(mask, content) for mask in masks]
    regions = regions or [None] * len(given)
    return [Style(s, float(w), r) for s, w, r in zip(given, weights / weights.sum(), regions, strict=True)]


def _region(mask: np.ndarray, content: np.ndarray) -> np.ndarray:
    if mask.shape[:2] != content.shape[:2]:
        raise images.ImageError(
            f"style_mask: {mask.shape[1]}x{mask.shape[0]} pixels; accepted: the size of the image, "
            f"{content.shape[1]}x{content.shape[0]}"
        )
    return (mask if mask.ndim == 2 else mask.mean(axis=2)).astype(np.float32) / 255


def _targets(
    goal: Objective,
    content: np.ndarray,
    styles: list[Style],
    parameters: GatysParameters,
    share: float,
    style_size: int = 0,
) -> Targets:
    """Targets at the size of `content`, which has this `share` of the full picture's pixels.

    Content loss and total variation are sums over pixels, the style loss is not: dividing the two by the
    share keeps the balance of the full size.
    """
    p, layers = parameters, goal.layers
    return make_targets(
        goal,
        content,
        styles,
        (p.content_weight / share, p.style_weight, p.total_variation_weight / share),
        [p.content_layers.get(name, 1.0) for name in layers.content],
        [p.style_layers.get(name, 1.0) / len(layers.style) for name in layers.style],
        p.style_scale,
        style_size,
    )


class TransferJob:
    """One transfer: its stages, its progress, and the best picture so far."""

    def __init__(self, content: np.ndarray, styles: list[Style], parameters: GatysParameters, on_progress: OnProgress):
        p = parameters
        name = p.extractor
        self._layers = layers_of(name, tuple(p.style_layers), tuple(p.content_layers), p.pooling)
        self._content, self._styles, self._parameters = content, styles, p
        self._on_progress, self._clock = on_progress, Clock(p.max_seconds)
        self._stages = plan(content.shape[0], content.shape[1], p)
        self._step = self._stage = 0
        self._best_loss = np.inf
        self._before: Evaluation | None = None
        self._latest: Evaluation | None = None

    def run(self) -> np.ndarray:
        """Carry out all stages; return the picture, float (height, width, 3), not clipped unless it is bounded."""
        pixels: np.ndarray | None = None
        try:
            for number, stage in enumerate(self._stages):
                self._stage = number
                pixels = self._descend(stage, self._begin(stage, pixels))
        except TimeUpError:
            pixels = images.resize_float(self._best, *self._content.shape[:2])
        assert pixels is not None
        return pixels

    def _begin(self, stage: Stage, before: np.ndarray | None) -> np.ndarray:
        """The first picture of a stage: the one before, enlarged, with the detail that it was too small for."""
        if before is None:
            return images.resize_float(self._initial(), stage.height, stage.width)
        start = images.resize_float(before, stage.height, stage.width)
        if self._parameters.initial != "content":
            return start
        content = images.resize_float(self._content, stage.height, stage.width)
        small = images.resize_float(self._content, *before.shape[:2])
        return start + content - images.resize_float(small, stage.height, stage.width)

    def _initial(self) -> np.ndarray:
        if self._parameters.initial == "noise":
            return np.random.default_rng(self._parameters.seed).uniform(0, 255, self._content.shape)
        if self._parameters.initial == "style":
            return images.resize(self._styles[0].image, *self._content.shape[:2]).astype(np.float64)
        if self._parameters.optimizer == "sgd" or self._styles[0].mask is not None:
            return self._content.astype(np.float64)
        weights = np.array([style.weight for style in self._styles])
        return colors.match_colors(self._content, [style.image for style in self._styles], weights)

    def _descend(self, stage: Stage, start: np.ndarray) -> np.ndarray:
        """One uninterrupted run of the optimizer, so that L-BFGS keeps its memory; see `Stage`."""
        self._best_loss, self._best = np.inf, start
        minimize, first = OPTIMIZERS[self._parameters.optimizer], self._step
        evaluate = self._evaluator(stage, first)
        p = self._parameters
        pixels = minimize(evaluate, start, stage.steps, p.learning_rate, self._report, p.bounded)
        if (left := first + stage.steps - self._step) > 0 and stage.exact:
            # The line search met the noise of bfloat16, or of the change to float32: continue without it.
            exact = self._evaluator(Stage(stage.height, stage.width, left, left, "float32"), self._step)
            pixels = minimize(exact, pixels, left, p.learning_rate, self._report, p.bounded)
        self._step = first + stage.steps
        self._before = self._latest
        return pixels

    def _evaluator(self, stage: Stage, first: int) -> Callable[[np.ndarray], Evaluation]:
        has_regions = self._styles[0].mask is not None
        # A style of another scale may be the largest picture that the network sees.
        pixels = stage.height * stage.width * max(1.0, self._parameters.style_scale) ** 2
        pauses = checkpoints.is_large(int(pixels))
        exact = compiled(self._layers, "float32", has_regions, pauses)
        kept = without_negligible(self._layers, self._before.layers, NEGLIGIBLE) if self._before else self._layers
        fast = compiled(kept, stage.dtype, has_regions, pauses)
        content = images.resize(self._content, stage.height, stage.width)
        share = stage.height * stage.width / (self._content.shape[0] * self._content.shape[1])
        targets = _targets(exact, content, self._styles, self._parameters, share)
        fewer = restricted(targets, self._layers, kept)
        exact_from = first + stage.steps - stage.exact

        def evaluate(pixels: np.ndarray) -> Evaluation:
            if self._step >= exact_from:
                return exact.measure(pixels, targets)
            return replace(fast.measure(pixels, fewer), exact=fast is exact)

        return evaluate

    def _report(self, pixels: np.ndarray, here: Evaluation) -> None:
        if not (np.isfinite(here.loss) and np.isfinite(here.gradient).all()):
            raise NotANumberError(self._step + 1, images.to_uint8(self._best))
        self._step += 1
        self._latest = here
        if here.loss < self._best_loss:
            self._best_loss, self._best = here.loss, pixels
        every, stopped = self._parameters.preview_every, self._clock.stopped()
        self._on_progress(
            Progress(
                step=self._step,
                steps=self._parameters.steps,
                stage=self._stage,
                loss=here.loss,
                seconds=self._clock.seconds(),
                image=images.to_uint8(pixels) if every and self._step % every == 0 else None,
                parts=here.parts,
                exact=here.exact,
                stopped=stopped,
            )
        )
        if stopped:
            raise TimeUpError
