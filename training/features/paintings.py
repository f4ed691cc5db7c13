"""Pictures that Gatys' optimization makes through the student, while it learns.

On photographs alone a student may be close to its teacher and still be useless: an optimization looks for pictures
that please the student, and finds those that it misjudges. So the student is shown them, with the teacher's answer
(as imitation learning does with the states that the learner itself gets into: Ross et al. 2011, DAgger).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from synthesis import compact
from synthesis.gatys import BOOK
from synthesis.loss_terms import ContentLoss, StyleLoss, Sum, TotalVariation
from synthesis.losses import gram_matrix
from synthesis.optimizers import Adam

*STYLE_LAYERS, CONTENT_LAYER = compact.LAYERS
_RATE, _SQUARE_DECAY = 4.0, 0.99
"""Of Adam; it forgets sooner than usual, because the student changes under it."""


@dataclass(frozen=True)
class InitialImage:
    """What one optimization starts from and aims at.

    Attributes:
        content, style, picture: float32 (size, size, 3), pixels in [0, 255].
    """

    content: np.ndarray
    style: np.ndarray
    picture: np.ndarray


@dataclass
class OptimizationState:
    """A picture that is being optimized.

    Attributes:
        picture, content, style: float32 (size, size, 3), pixels in [0, 255].
    """

    picture: np.ndarray
    content: np.ndarray
    style: np.ndarray
    adam: Adam = field(default_factory=lambda: Adam(_RATE, _SQUARE_DECAY))

    def step(self, gradient: np.ndarray) -> None:
        """Take one step against `gradient`."""
        self.picture = self.adam.step(self.picture, gradient).astype(np.float32)


@dataclass
class OptimizationPool:
    """Many optimizations at different stages; each call of `advance` takes the next few a little further.

    They are not part of a checkpoint: a resumed run starts them anew.

    Args:
        student: as `synthesis.compact.build_untrained`; read in every call, never changed.
        begin: number of an optimization to what it starts from.
        count: optimizations in work.
        steps: of each, before a new one takes its place.
        stride: steps in one call of `advance`.
    """

    student: keras.Model
    begin: Callable[[int], InitialImage]
    count: int = 48
    steps: int = 80
    stride: int = 2
    _begun: int = 0
    _queue: list[OptimizationState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._targets, self._gradient = tf.function(self._targets_of), tf.function(self._gradient_of)

    def advance(self, count: int) -> np.ndarray:
        """Return the next `count` pictures after `stride` steps: float32 (count, size, size, 3)."""
        while len(self._queue) < self.count:
            self._queue.append(self._new())
        chosen, self._queue = self._queue[:count], self._queue[count:]
        targets = self._targets(np.stack([s.content for s in chosen]), np.stack([s.style for s in chosen]))
        for _ in range(self.stride):
            gradients = self._gradient(np.stack([s.picture for s in chosen]), *targets).numpy()
            for state, gradient in zip(chosen, gradients, strict=True):
                state.step(gradient)
        self._queue += [s if s.adam.steps < self.steps else self._new() for s in chosen]
        return np.stack([s.picture for s in chosen])

    def _new(self) -> OptimizationState:
        initial = self.begin(self._begun)
        self._begun += 1
        return OptimizationState(initial.picture, initial.content, initial.style)

    def _targets_of(self, contents, styles):
        """Return the student's activations at the content layer, and its Gram matrices at the style layers."""
        style_activations = self._activations(styles)
        return self._activations(contents)[CONTENT_LAYER], [gram_matrix(style_activations[n]) for n in STYLE_LAYERS]

    def _gradient_of(self, pictures, content_target, grams):
        """Return the gradient of the book's objective through the student, for each picture."""
        style = Sum.of(StyleLoss(layer, gram) for layer, gram in zip(STYLE_LAYERS, grams, strict=True))
        objective = (
            BOOK.content_weight * ContentLoss(CONTENT_LAYER, content_target)
            + BOOK.style_weight / len(grams) * style
            + BOOK.total_variation_weight * TotalVariation()
        )
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            loss = objective(pictures, self._activations(pictures))
        return tape.gradient(loss, pictures)

    def _activations(self, pictures):
        outputs = self.student(pictures / 127.5 - 1.0)
        return {name: ops.cast(a, "float32") for name, a in zip(compact.LAYERS, outputs, strict=True)}
