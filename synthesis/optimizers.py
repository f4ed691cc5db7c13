"""The three ways down a loss: L-BFGS (SciPy's), the book's SGD, and Adam. Knows nothing about pictures' meaning.

Bounded, all three keep every pixel in [0, 255]: L-BFGS-B looks for the least loss there, the others project each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from synthesis.blas import one_thread
from synthesis.objective import Evaluation

Evaluate = Callable[[np.ndarray], Evaluation]
"""Float pixels (height, width, 3) in [0, 255] to the loss there."""
Report = Callable[[np.ndarray, Evaluation], None]
"""Called after every step with the pixels and the loss there; may raise, which ends the optimization."""

LOW, HIGH = 0.0, 255.0
LBFGS_PAIRS, LBFGS_BYTES = 30, 512 * 2**20
"""Pairs of steps and gradients that L-BFGS remembers, and the memory they may take for a large picture."""


def lbfgs(
    evaluate: Evaluate, start: np.ndarray, steps: int, learning_rate: float, report: Report, bounded: bool = False
) -> np.ndarray:
    """Minimize by one run of SciPy's L-BFGS-B, whose memory lasts from the first step to the last; return the pixels."""
    latest: Evaluation | None = None

    def fun(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal latest
        latest = evaluate(flat.reshape(start.shape))
        return latest.loss, latest.gradient.astype(np.float64).ravel()

    def callback(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        assert latest is not None  # the accepted point is the one evaluated last
        report(intermediate_result.x.reshape(start.shape).copy(), latest)

    # SciPy stops by itself on small relative change; only the step count may end a transfer.
    limits = {"maxiter": steps, "maxfun": 4 * steps + 20, "maxcor": _pairs(start.size), "ftol": 0.0, "gtol": 0.0}
    with one_thread.held():
        found = scipy.optimize.minimize(
            fun,
            _within(start, bounded).ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(LOW, HIGH) if bounded else None,
            callback=callback,
            options=limits,
        )
    return found.x.reshape(start.shape)


def _pairs(numbers: int) -> int:
    """How many pairs of float64 vectors fit; L-BFGS is of little use with fewer than 5."""
    return int(np.clip(LBFGS_BYTES // (16 * numbers), 5, LBFGS_PAIRS))


def sgd(
    evaluate: Evaluate, start: np.ndarray, steps: int, learning_rate: float, report: Report, bounded: bool = False
) -> np.ndarray:
    """Minimize by plain gradient descent, whose rate falls by 4 % every 100 steps (listing 12-23); return the pixels."""
    pixels, rate = _within(start, bounded), learning_rate or 100.0
    for i in range(steps):
        here = evaluate(pixels)
        report(pixels, here)
        pixels = _within(pixels - rate * 0.96 ** (i / 100) * here.gradient, bounded)
    return pixels


def adam(
    evaluate: Evaluate, start: np.ndarray, steps: int, learning_rate: float, report: Report, bounded: bool = False
) -> np.ndarray:
    """Minimize by Adam (Kingma & Ba 2015) with bias correction and moments 0.9 and 0.999; return the pixels."""
    pixels, state = _within(start, bounded), Adam(learning_rate or 5.0)
    for _ in range(steps):
        here = evaluate(pixels)
        report(pixels, here)
        pixels = _within(state.step(pixels, here.gradient), bounded)
    return pixels


def _within(pixels: np.ndarray, bounded: bool) -> np.ndarray:
    return np.clip(pixels, LOW, HIGH) if bounded else pixels


@dataclass
class Adam:
    """Adam's steps for one picture.

    Attributes:
        rate: in pixels; square_decay: how much of the second moment a step keeps.
        steps: made so far; mean, square: the moments.
    """

    rate: float
    square_decay: float = 0.999
    steps: int = 0
    mean: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0

    def step(self, pixels: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the pixels after one step against `gradient`, of the same shape."""
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = self.square_decay * self.square + (1 - self.square_decay) * gradient**2
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - self.square_decay**self.steps)
        return pixels - self.rate * mean / (np.sqrt(square) + 1e-8)


OPTIMIZERS = {"lbfgs": lbfgs, "sgd": sgd, "adam": adam}
