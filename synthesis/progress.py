"""What an optimisation tells its caller while it runs, and how the caller stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from synthesis.errors import InputError


@dataclass(frozen=True)
class Progress:
    """One record of a running optimisation.

    Attributes:
        step, steps: steps done, of how many in all (an early end may make fewer).
        stage: octave (DeepDream) or scale (Gatys), from 0.
        loss: the objective after this step.
        seconds: since the optimisation began.
        image: uint8 (height, width, 3) where a preview was asked for, else None.
    """

    step: int
    steps: int
    stage: int
    loss: float
    seconds: float
    image: np.ndarray | None = None


class Cancelled(Exception):
    """Raised by an `OnProgress` callback to stop the optimisation at once."""


OnProgress = Callable[[Progress], None]


class NotANumberError(InputError):
    """The loss became NaN or infinite; `image` is the last good picture, uint8."""

    def __init__(self, step: int, image: np.ndarray):
        super().__init__(f"the loss became NaN or infinite at step {step}; try a smaller step or smaller weights")
        self.image = image
