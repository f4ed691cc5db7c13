"""What an optimization tells its caller while it runs, and how the caller stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from reverie.errors import InputError, ToolkitError

MAX_SECONDS = "max_seconds"


@dataclass(frozen=True)
class Progress:
    """One record of a running optimization.

    Attributes:
        step, steps: steps done, of how many in all (an early end may make fewer).
        stage: octave (DeepDream) or stage (Gatys: a size and a precision), from 0.
        loss: the objective at this step; an early stage of Gatys has its own.
        seconds: since the optimization began, waiting for other jobs included.
        image: uint8 (height, width, 3) where a preview was asked for, else None.
        parts: what the loss is the sum of, by name, already weighted.
        frame: above 0 where `image` is this finished frame of a zoom sequence.
        exact: `loss` is the whole objective in float32; where not, an estimate in faster arithmetic.
        stopped: "" or "max_seconds": this step used up the time, and the picture is the best so far.
    """

    step: int
    steps: int
    stage: int
    loss: float
    seconds: float
    image: np.ndarray | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    frame: int = 0
    stopped: str = ""
    exact: bool = True


OnProgress = Callable[[Progress], None]


class TimeUpError(ToolkitError):
    """Unwinds an optimization whose `max_seconds` have passed; never reaches the caller."""


class Clock:
    """Seconds since it was made, and whether that is more than a job may take; 0 sets no limit."""

    def __init__(self, max_seconds: float):
        self._started, self._max_seconds = time.monotonic(), max_seconds

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def stopped(self) -> str:
        """Return "max_seconds" once they have passed, else ""."""
        return MAX_SECONDS if 0 < self._max_seconds <= self.seconds() else ""


class NotANumberError(InputError):
    """The loss became NaN or infinite; `image` is the last good picture, uint8."""

    def __init__(self, step: int, image: np.ndarray):
        super().__init__(f"the loss became NaN or infinite at step {step}; try a smaller step or smaller weights")
        self.image = image
