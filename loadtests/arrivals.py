"""When requests arrive in an open loop: a schedule drawn before the load, the same for the same seed.

Neither the server nor the generator can slow it down: what does not keep up, shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reverie.errors import InputError

KINDS = ("poisson", "constant")


class ScheduleError(InputError):
    """A schedule cannot be drawn; the message says which value, and what is accepted."""


@dataclass(frozen=True)
class Phase:
    """A stretch of load at one rate.

    Attributes:
        rate: requests per second, of all endpoints together.
        seconds: how long.
    """

    rate: float
    seconds: float

    def __post_init__(self) -> None:
        for name in ("rate", "seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ScheduleError(f"{name}: {value!r} is not accepted; accepted: a number above 0")


@dataclass(frozen=True)
class Arrival:
    """A request that is due `at_s` seconds after the load began; `seed` decides what exactly it asks for."""

    at_s: float
    endpoint: str
    seed: int


def schedule(
    phases: Sequence[Phase], weights: Mapping[str, float], kind: str = "poisson", seed: int = 0
) -> list[Arrival]:
    """Draw the arrivals of `phases`, one after the other, each request's endpoint in proportion to `weights`.

    Args:
        kind: "poisson" (independent users: exponential gaps) or "constant" (equal gaps).

    Raises:
        ScheduleError: an unknown kind, or no endpoint has a weight.
    """
    if kind not in KINDS:
        raise ScheduleError(f"arrivals: {kind!r} is unknown; accepted: {', '.join(KINDS)}")
    total = sum(weights.values())
    if total <= 0:
        raise ScheduleError(f"weights: {dict(weights)} choose no endpoint; accepted: at least one above 0")
    rng = np.random.default_rng(seed)
    times = np.concatenate(_times_of_phases(phases, kind, rng) or [np.empty(0)])
    chosen = rng.choice(list(weights), size=len(times), p=[w / total for w in weights.values()])
    seeds = rng.integers(2**31, size=len(times))
    return [Arrival(float(t), str(e), int(s)) for t, e, s in zip(times, chosen, seeds, strict=True)]


def _times_of_phases(phases: Sequence[Phase], kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    draw = poisson_times if kind == "poisson" else constant_times
    starts = np.cumsum([0.0, *(p.seconds for p in phases)])
    return [start + draw(p, rng) for start, p in zip(starts, phases, strict=False)]


def poisson_times(phase: Phase, rng: np.random.Generator) -> np.ndarray:
    """Draw the arrivals of a Poisson process in [0, seconds): their number is Poisson's, given it they are uniform."""
    return np.sort(rng.uniform(0, phase.seconds, rng.poisson(phase.rate * phase.seconds)))


def constant_times(phase: Phase, rng: np.random.Generator) -> np.ndarray:
    """Return an arrival every 1 / rate seconds, the first half a gap after the beginning; `rng` is not used."""
    del rng
    return (np.arange(round(phase.rate * phase.seconds)) + 0.5) / phase.rate
