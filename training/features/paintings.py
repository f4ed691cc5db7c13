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

from synthesis.gatys import BOOK
from synthesis.losses import content_loss, gram_matrix, style_loss, total_variation
from synthesis.optimizers import Adam

Beginning = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of a painting: its content, its style and its first picture."""
_RATE, _SQUARE_DECAY = 4.0, 0.99
"""Of Adam; it forgets sooner than usual, because the student changes under it."""


@dataclass
class Painting:
    """A picture being painted.

    Attributes:
        picture, content, style: float32 (size, size, 3), pixels in [0, 255].
    """

    picture: np.ndarray
    content: np.ndarray
    style: np.ndarray
    adam: Adam = field(default_factory=lambda: Adam(_RATE, _SQUARE_DECAY))

    def step(self, gradient: np.ndarray) -> None:
        """One step against `gradient`."""
        self.picture = self.adam.step(self.picture, gradient).astype(np.float32)


@dataclass
class Easel:
    """Many paintings at different stages; each visit takes the next few a little further.

    A run that goes on after a stop begins its paintings anew: they are not part of a checkpoint.

    Args:
        student: as `synthesis.compact.build_untrained`; read at every visit, never changed.
        begin: number of a painting to its content, its style and its first picture.
        count: paintings in work; `steps`: that each gets before a new one takes its place; `stride`: in a visit.
    """

    student: keras.Model
    begin: Callable[[int], Beginning]
    count: int = 48
    steps: int = 80
    stride: int = 2
    _begun: int = 0
    _queue: list[Painting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._targets, self._gradient = tf.function(self._targets_of), tf.function(self._gradient_of)

    def visit(self, count: int) -> np.ndarray:
        """The next `count` paintings after some steps: float32 (count, size, size, 3)."""
        while len(self._queue) < self.count:
            self._queue.append(self._new())
        chosen, self._queue = self._queue[:count], self._queue[count:]
        targets = self._targets(np.stack([p.content for p in chosen]), np.stack([p.style for p in chosen]))
        for _ in range(self.stride):
            gradients = self._gradient(np.stack([p.picture for p in chosen]), *targets).numpy()
            for painting, gradient in zip(chosen, gradients, strict=True):
                painting.step(gradient)
        self._queue += [p if p.adam.steps < self.steps else self._new() for p in chosen]
        return np.stack([p.picture for p in chosen])

    def _new(self) -> Painting:
        content, style, picture = self.begin(self._begun)
        self._begun += 1
        return Painting(picture, content, style)

    def _targets_of(self, contents, styles):
        """What the student sees in them: the content layer, and the Gram matrices of the style layers."""
        *_, wanted = self._see(contents)
        return wanted, [gram_matrix(a) for a in self._see(styles)[:-1]]

    def _gradient_of(self, pictures, wanted, grams):
        """Of the book's objective through the student, for each picture."""
        book = BOOK
        pixels = float(pictures.shape[1] * pictures.shape[2])
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            *activations, shown = self._see(pictures)
            losses = [style_loss(gram_matrix(a), g, pixels) for a, g in zip(activations, grams, strict=True)]
            loss = book.style_weight / len(losses) * ops.sum(losses)
            loss += book.content_weight * content_loss(shown, wanted)
            loss += book.total_variation_weight * ops.sum(total_variation(pictures))
        return tape.gradient(loss, pictures)

    def _see(self, pictures):
        return [ops.cast(a, "float32") for a in self.student(pictures / 127.5 - 1.0)]
