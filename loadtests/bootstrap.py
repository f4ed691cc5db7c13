"""Confidence intervals of the difference between two servers' percentiles; pure computation.

Rounds, not single requests, are drawn again: requests of one round share the machine's mood, and a bootstrap of
requests alone would take that for certainty (Field and Welsh 2007, "Bootstrapping clustered data").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
CONFIDENCE = 95.0
MIN_ROUNDS = 3
"""Fewer say nothing about how rounds differ."""

Round = tuple[Sequence[float], Sequence[float]]
"""Times of one round, in milliseconds: of A, and of B."""


@dataclass(frozen=True)
class Difference:
    """A percentile of B less that of A.

    Attributes:
        rank: which percentile.
        a_ms, b_ms: the percentile of all rounds together.
        low_ms, high_ms: the interval that holds B - A with a confidence of 95 %.
        verdict: "B is slower", "B is faster", "no difference shown", or "too few rounds".
    """

    rank: float
    a_ms: float
    b_ms: float
    low_ms: float
    high_ms: float
    verdict: str


def compare(rounds: Sequence[Round], rank: float, seed: int = 0) -> Difference | None:
    """Compare one percentile over interleaved rounds; None unless both have times in some round."""
    paired = [(np.asarray(a, float), np.asarray(b, float)) for a, b in rounds if len(a) and len(b)]
    if not paired:
        return None
    a_ms, b_ms = _percentiles(paired, rank)
    draws = bootstrap_differences(paired, rank, seed)
    tail = (100 - CONFIDENCE) / 2
    low, high = (float(v) for v in np.percentile(draws, (tail, 100 - tail)))
    return Difference(rank, a_ms, b_ms, low, high, _verdict(low, high, len(paired)))


def bootstrap_differences(rounds: Sequence[tuple[np.ndarray, np.ndarray]], rank: float, seed: int) -> np.ndarray:
    """Draw rounds with replacement, and times within each; return B - A of each draw, shape (DRAWS,), in ms."""
    rng = np.random.default_rng(seed)
    differences = np.empty(DRAWS)
    for i in range(DRAWS):
        drawn = [rounds[r] for r in rng.integers(len(rounds), size=len(rounds))]
        a, b = _percentiles([(_again(a, rng), _again(b, rng)) for a, b in drawn], rank)
        differences[i] = b - a
    return differences


def _again(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return times[rng.integers(len(times), size=len(times))]


def _percentiles(rounds: Sequence[tuple[np.ndarray, np.ndarray]], rank: float) -> tuple[float, float]:
    a, b = (np.percentile(np.concatenate(side), rank, method="inverted_cdf") for side in zip(*rounds, strict=True))
    return float(a), float(b)


def _verdict(low: float, high: float, rounds: int) -> str:
    if rounds < MIN_ROUNDS:
        return "too few rounds"
    if low > 0:
        return "B is slower"
    return "B is faster" if high < 0 else "no difference shown"
