"""Neural style transfer by optimisation (Gatys et al. 2015; section 12.3).

The book's objective exactly: VGG19, content at block5_conv2, Gram matrices at five layers, total
variation to the 1.25, and its three weights. It departs from the book in its work, not in its aim: the
targets are computed once instead of in every step (a third of the arithmetic), and the default optimiser
is Gatys' L-BFGS (SciPy's) instead of SGD.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.optimize
import tensorflow as tf
from pydantic import BaseModel, ConfigDict, Field

from synthesis import features, images
from synthesis.losses import content_loss, gram_matrix, style_loss, total_variation
from synthesis.progress import NotANumberError, OnProgress, Progress


class GatysParameters(BaseModel):
    """Settings of one transfer; weights and layers are the book's.

    Attributes:
        steps: iterations of the optimiser.
        optimizer: "lbfgs" (SciPy's), "sgd" (the book's schedule: rate x 0.96 every 100 steps) or "adam".
        learning_rate: of sgd and adam, pixels in [0, 255]; 0 takes 100 for sgd (meant for pictures 400
            pixels high) and 5 for adam.
        content_weight, style_weight, total_variation_weight: of the three losses (listing 12-22).
        initial: start from the content picture or from noise.
        features: extractor; "auto" takes vgg19 where its weights are, else compact.
        size: longer side of the result in pixels; a smaller picture keeps its size.
        preview_every: steps between preview pictures; 0 for none.
        seed: of the noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=100, ge=1, le=10_000)
    optimizer: Literal["lbfgs", "sgd", "adam"] = "lbfgs"
    learning_rate: float = Field(default=0.0, ge=0, le=1000, allow_inf_nan=False)
    content_weight: float = Field(default=2.5e-8, ge=0, le=1e6, allow_inf_nan=False)
    style_weight: float = Field(default=1e-6, ge=0, le=1e6, allow_inf_nan=False)
    total_variation_weight: float = Field(default=1e-6, ge=0, le=1e6, allow_inf_nan=False)
    initial: Literal["content", "noise"] = "content"
    features: str = "auto"
    size: int = Field(default=400, ge=64, le=2048)
    preview_every: int = Field(default=0, ge=0, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**63)


@dataclass(frozen=True)
class Targets:
    """What the picture should look like to the extractor, and the weights of each loss.

    Attributes:
        content: float32 (1, h, w, channels); grams: one float32 (1, channels, channels) a style layer.
        weights: float32 (3,): content, style (a layer), total variation.
    """

    content: tf.Tensor
    grams: tuple[tf.Tensor, ...]
    weights: tf.Tensor


class Objective:
    """The book's loss (listing 12-22) for one extractor; a single trace serves all sizes."""

    def __init__(self, name: str):
        network = features.defaults(name)
        if not network.style_layers:
            raise features.FeaturesError(f"features: {name} has no style layers; accepted: vgg19, compact")
        self._extract = features.load(name, [*network.style_layers, network.content_layer])
        self.layers = len(network.style_layers)
        self.loss_and_gradient = tf.function(
            self._loss_and_gradient,
            input_signature=[
                tf.TensorSpec((1, None, None, 3), tf.float32),
                tf.TensorSpec((1, None, None, None), tf.float32),
                tuple(tf.TensorSpec((1, None, None), tf.float32) for _ in range(self.layers)),
                tf.TensorSpec((3,), tf.float32),
            ],
        )
        self._activations = tf.function(self._extract, input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)])

    def targets(self, content: np.ndarray, style: np.ndarray, parameters: GatysParameters) -> Targets:
        """Compute once what every step compares with; images are uint8 (height, width, 3)."""
        *_, wanted = self._activations(content[None].astype(np.float32))
        *styles, _ = self._activations(style[None].astype(np.float32))
        weights = (parameters.content_weight, parameters.style_weight / self.layers, parameters.total_variation_weight)
        return Targets(wanted, tuple(gram_matrix(s) for s in styles), tf.constant(weights, tf.float32))

    def at(self, pixels: np.ndarray, targets: Targets) -> tuple[float, np.ndarray]:
        """Loss and its gradient at float pixels (height, width, 3) in [0, 255]."""
        image = tf.constant(pixels[None], tf.float32)
        loss, gradient = self.loss_and_gradient(image, targets.content, targets.grams, targets.weights)
        return float(loss), gradient.numpy()[0]

    def _loss_and_gradient(self, image, content, grams, weights):
        with tf.GradientTape() as tape:
            tape.watch(image)
            *styles, seen = self._extract(image)
            pixels = tf.cast(tf.shape(image)[1] * tf.shape(image)[2], tf.float32)
            style = tf.add_n([style_loss(gram_matrix(s), g, pixels) for s, g in zip(styles, grams, strict=True)])
            parts = tf.stack([content_loss(seen, content), style, total_variation(image)])
            loss = tf.reduce_sum(weights * parts)
        return loss, tape.gradient(loss, image)


@lru_cache(maxsize=2)
def objective(name: str) -> Objective:
    """The objective of an extractor, made once."""
    return Objective(name)


def transfer(
    content: np.ndarray,
    style: np.ndarray,
    parameters: GatysParameters,
    on_progress: OnProgress = lambda progress: None,
) -> np.ndarray:
    """Paint `content` in the style of `style`.

    Args:
        content, style: uint8 (height, width, 3), of any two sizes.
        on_progress: called after every step; may raise `Cancelled`, which passes through.

    Returns:
        uint8, the size of `content` shrunk to `parameters.size`.

    Raises:
        FeaturesError: unknown extractor, or weights that are not here.
        NotANumberError: the loss became NaN or infinite.
    """
    name = parameters.features if parameters.features != "auto" else features.first_available("vgg19")
    goal = objective(name)
    content = images.fit_within(content, parameters.size)
    style = images.resize(style, *content.shape[:2])
    targets = goal.targets(content, style, parameters)
    report = _Reporter(parameters, on_progress)
    start = _initial(content, parameters)
    minimise = _OPTIMISERS[parameters.optimizer]
    return images.to_uint8(minimise(lambda pixels: goal.at(pixels, targets), start, parameters, report))


Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


class _Reporter:
    """Turns an optimiser's steps into progress records, and stops it where the loss is no number."""

    def __init__(self, parameters: GatysParameters, on_progress: OnProgress):
        self._parameters = parameters
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._step = 0
        self._last_good: np.ndarray | None = None

    def __call__(self, pixels: np.ndarray, loss: float) -> None:
        if not np.isfinite(loss):
            good = self._last_good if self._last_good is not None else np.zeros_like(pixels)
            raise NotANumberError(self._step + 1, images.to_uint8(good))
        self._step += 1
        self._last_good = pixels
        every = self._parameters.preview_every
        self._on_progress(
            Progress(
                step=self._step,
                steps=self._parameters.steps,
                stage=0,
                loss=loss,
                seconds=time.monotonic() - self._started,
                image=images.to_uint8(pixels) if every and self._step % every == 0 else None,
            )
        )


def _initial(content: np.ndarray, parameters: GatysParameters) -> np.ndarray:
    if parameters.initial == "content":
        return content.astype(np.float64)
    return np.random.default_rng(parameters.seed).uniform(0, 255, content.shape)


def _lbfgs(evaluate: Evaluate, start: np.ndarray, parameters: GatysParameters, report: _Reporter) -> np.ndarray:
    def fun(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = evaluate(flat.reshape(start.shape))
        return loss, gradient.astype(np.float64).ravel()

    def callback(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        report(intermediate_result.x.reshape(start.shape).copy(), float(intermediate_result.fun))

    # SciPy stops by itself on small relative change; only the step count may end a transfer.
    options = {"maxiter": parameters.steps, "maxfun": 4 * parameters.steps + 20, "maxcor": 10, "ftol": 0.0, "gtol": 0.0}
    found = scipy.optimize.minimize(fun, start.ravel(), jac=True, method="L-BFGS-B", callback=callback, options=options)
    return found.x.reshape(start.shape)


def _sgd(evaluate: Evaluate, start: np.ndarray, parameters: GatysParameters, report: _Reporter) -> np.ndarray:
    """Listing 12-23: plain gradient descent, the rate falling by 4 % every 100 steps."""
    pixels, rate = start, parameters.learning_rate or 100.0
    for i in range(parameters.steps):
        loss, gradient = evaluate(pixels)
        pixels = pixels - rate * 0.96 ** (i / 100) * gradient
        report(pixels, loss)
    return pixels


def _adam(evaluate: Evaluate, start: np.ndarray, parameters: GatysParameters, report: _Reporter) -> np.ndarray:
    """Adam (Kingma & Ba 2015) with bias correction; moments 0.9 and 0.999."""
    pixels, rate = start, parameters.learning_rate or 5.0
    mean, square = np.zeros_like(start), np.zeros_like(start)
    for i in range(1, parameters.steps + 1):
        loss, gradient = evaluate(pixels)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        pixels = pixels - rate * (mean / (1 - 0.9**i)) / (np.sqrt(square / (1 - 0.999**i)) + 1e-8)
        report(pixels, loss)
    return pixels


_OPTIMISERS = {"lbfgs": _lbfgs, "sgd": _sgd, "adam": _adam}
