"""Fit the vector of a style to one painting; the network stays as it is.

A draft of the vector (see `synthesis.style.predictor`) is improved by gradient steps on a few photographs. A vector has
a few thousand numbers, so little is enough: small crops, whose activations at the content layer are computed once, and
one crop a step. Knows nothing of how a network is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from imaging import images
from reverie.errors import InputError
from synthesis import features
from synthesis.optimizers import Adam
from synthesis.progress import MAX_SECONDS
from synthesis.style.loss import STYLE_LAYERS, PerceptualLoss, StyleTargets
from synthesis.style.network import StyleNetwork

_MARGIN = 16
"""What the network sees around what the loss sees: at the network's borders nothing should be learned."""
_BALANCE_RATE = 0.1
"""Step of the logarithm of the content weight, for a crop whose content error is twice its target."""
_CONTENT_WEIGHTS = (0.02, 20.0)
_AVERAGED = 0.95
"""How much of the running means of the vector and of the errors a step keeps: one crop says little."""


@dataclass(frozen=True)
class LearnParameters:
    """How a style is learned.

    Attributes:
        max_seconds: the time it may take, 1 to 3600.
        max_steps: an earlier end, 1 to 100,000.
        size: side of the crops in pixels, 64 to 512, a multiple of 32.
        style_size: longer side of the painting in pixels, 64 to 2048: the scale of the strokes.
        content_error: how much of the photograph is given up, above 0 to 2; 0 is the photograph.
        learning_rate: the first of Adam's rates, which fall as a cosine; above 0 to 1.
        crops: of the photographs, 1 to 256.
        features: extractor that measures, "vgg19", "compact", or "auto": vgg19 where its weights are.
        seed: of the crops and their order.
    """

    max_seconds: float = 90.0
    max_steps: int = 2_000
    size: int = 192
    style_size: int = 512
    content_error: float = 0.6
    learning_rate: float = 2e-2
    crops: int = 16
    features: str = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; accepted: from {low:g} to {high:g}")
        if self.size % 32:
            raise InputError(f"size is {self.size}; accepted: multiples of 32")


_RANGES = {
    "max_seconds": (1, 3600),
    "max_steps": (1, 100_000),
    "size": (64, 512),
    "style_size": (64, 2048),
    "content_error": (1e-3, 2),
    "learning_rate": (1e-6, 1),
    "crops": (1, 256),
}


@dataclass(frozen=True)
class Learned:
    """A style while it is learned.

    Attributes:
        step: steps done; 0 is the draft.
        seconds: since the beginning.
        done: share of the time or of the steps that is over, 0 to 1.
        vector: float32 (length,), a mean of the last steps'.
        content_error, style_error: on the last crops, see `synthesis.style.loss`; NaN before the first step.
        stopped: "" or "max_seconds".
    """

    step: int
    seconds: float
    done: float
    vector: np.ndarray
    content_error: float = float("nan")
    style_error: float = float("nan")
    stopped: str = ""


def learn(
    network: StyleNetwork,
    draft: np.ndarray,
    painting: np.ndarray,
    photographs: Sequence[np.ndarray],
    parameters: LearnParameters = LearnParameters(),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Learned]:
    """Yield the style after every step, first as it is drafted; whoever stops asking stops the learning.

    Args:
        network: its weights stay as they are.
        draft: float32 (length,), where to start.
        painting: uint8 (height, width, 3).
        photographs: uint8 (height, width, 3) each, at least one; what the style is tried on.

    Raises:
        InputError: no photographs; a draft of another length or with values that are not finite; an extractor whose
            weights are not on this machine (`synthesis.features.FeaturesError`).
    """
    began = clock()
    vector = _checked(network, draft)
    if not photographs:
        raise InputError("there are no photographs to learn on; accepted: at least one")
    yield Learned(0, clock() - began, 0.0, vector)
    fitting = _Fitting(network, vector, painting, photographs, parameters)
    done = 0.0
    while done < 1.0:
        fitting.step(done)
        seconds = clock() - began
        done = min(1.0, max(seconds / parameters.max_seconds, fitting.steps / parameters.max_steps))
        in_time = seconds < parameters.max_seconds
        yield fitting.learned(seconds, done, "" if in_time else MAX_SECONDS)


def _checked(network: StyleNetwork, draft: np.ndarray) -> np.ndarray:
    vector = np.asarray(draft, np.float32)
    if vector.shape != (network.length,) or not np.isfinite(vector).all():
        raise InputError(
            f"the draft has the shape {vector.shape}, {np.count_nonzero(~np.isfinite(vector))} values that are not finite; "
            f"accepted: {network.length} finite numbers"
        )
    return vector


class _Fitting:
    """The state between steps."""

    def __init__(
        self,
        network: StyleNetwork,
        vector: np.ndarray,
        painting: np.ndarray,
        photographs: Sequence[np.ndarray],
        parameters: LearnParameters,
    ):
        self._parameters, self._vector = parameters, vector
        extractor = features.chosen(parameters.features, preferred="vgg19")
        self._content_of, self._gradient = _compiled(network, extractor)
        self._targets = _targets(extractor, painting, parameters.style_size)
        self._rng = np.random.default_rng(parameters.seed)
        self._crops = [self._crop(photographs[i % len(photographs)]) for i in range(parameters.crops)]
        self._contents: dict[int, tf.Tensor] = {}
        self._adam = Adam(parameters.learning_rate, square_decay=0.99)
        self._log_weight = np.log(0.4)
        self._mean, self._errors = vector, np.zeros(2)
        self.steps = 0

    def step(self, done: float) -> None:
        """Take one step on one crop; `done` says how much of the learning is over, 0 to 1."""
        index = int(self._rng.integers(len(self._crops)))
        crop = self._crops[index]
        if index not in self._contents:
            self._contents[index] = self._content_of(crop)
        vector, weight = tf.constant(self._vector[None]), tf.constant(np.exp(self._log_weight), tf.float32)
        found = self._gradient(
            vector, crop, self._contents[index], weight, self._targets.grams, self._targets.roughness
        )
        gradient, content, style = (array.numpy() for array in found)
        self._adam.rate = self._parameters.learning_rate * (0.5 + 0.5 * np.cos(np.pi * done))
        self._vector = self._adam.step(self._vector, gradient[0]).astype(np.float32)
        self._balance(float(content))
        self._remember(np.array([content, style]))

    def learned(self, seconds: float, done: float, stopped: str) -> Learned:
        """Return what has been learned so far."""
        content, style = (float(error) for error in self._errors)
        return Learned(self.steps, seconds, done, self._mean.astype(np.float32), content, style, stopped)

    def _balance(self, content: float) -> None:
        excess = np.clip(content / self._parameters.content_error - 1.0, -1.0, 1.0)
        self._log_weight = np.clip(self._log_weight + _BALANCE_RATE * excess, *np.log(_CONTENT_WEIGHTS))

    def _remember(self, errors: np.ndarray) -> None:
        """Running means, of the first steps over those alone."""
        self.steps += 1
        kept = min(_AVERAGED, 1 - 1 / self.steps)
        self._mean = kept * self._mean + (1 - kept) * self._vector
        self._errors = kept * self._errors + (1 - kept) * errors

    def _crop(self, photograph: np.ndarray) -> np.ndarray:
        """A random square of the photograph, at least half of its shorter side, float32 (1, side, side, 3)."""
        side, shorter = self._parameters.size + 2 * _MARGIN, min(photograph.shape[:2])
        taken = int(self._rng.integers(max(1, shorter // 2), shorter + 1))
        top, left = (int(self._rng.integers(length - taken + 1)) for length in photograph.shape[:2])
        crop = images.resize(photograph[top : top + taken, left : left + taken], side, side)
        return crop[None].astype(np.float32)


def _targets(extractor: str, painting: np.ndarray, size: int) -> StyleTargets:
    targets = StyleTargets.of(features.load(extractor, STYLE_LAYERS), [images.fit_within(painting, size)])
    # Tensors: arrays would be copied at every step.
    return StyleTargets([tf.constant(gram) for gram in targets.grams], tf.constant(targets.roughness))


@lru_cache(maxsize=2)
def _compiled(network: StyleNetwork, extractor: str) -> tuple[Callable, Callable]:
    """What is traced once for all paintings, which takes seconds: a crop to its content, and the gradient.

    The latter takes a vector, a crop, its content, the content's weight, and the targets' matrices and roughness. It returns
    the gradient for the vector, and both errors.
    """
    loss = PerceptualLoss((), extractor)

    def gradient(vector, crop, content, weight, grams, rough):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vector)
            painted = _inner(network.paint(crop, vector))
            terms = loss.against(painted, content, StyleTargets(grams, rough), weight)
            total = tf.reduce_mean(terms.total)
        return tape.gradient(total, vector), terms["content"][0], terms["style"][0]

    return tf.function(lambda crop: loss.content_of(_inner(crop))), tf.function(gradient)


def _inner(crop):
    return crop[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
