"""Whether the load generator itself was the bottleneck: its CPU share and how late it sent."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from loadtests.calls import Call, Outcome
from loadtests.measure import percentile

LATE_MS = 10.0
"""An arrival sent later than this counts as late."""


@dataclass(frozen=True)
class Limits:
    """Above these a run says more about the generator than about the server.

    Attributes:
        cpu_share: of one core: Python computes on no more than one at a time.
        lag_p99_ms: how late all but 1 % of the requests may be sent.
    """

    cpu_share: float = 0.8
    lag_p99_ms: float = 100.0


@dataclass(frozen=True)
class GeneratorHealth:
    """What the generator did in one run.

    Attributes:
        cpu_share: its CPU time over the run's length, 1.0 being one core.
        lag_p50_ms, lag_p99_ms: from a request's scheduled time to its sending; None where nothing was scheduled.
        late: requests sent more than `LATE_MS` after their time.
        dropped: requests not sent because too many were in flight.
    """

    cpu_share: float
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    late: int = 0
    dropped: int = 0

    @classmethod
    def of(cls, calls: Iterable[Call], cpu_share: float) -> GeneratorHealth:
        """Measure the generator by an open loop's calls; a closed loop has no schedule to be late for."""
        calls = list(calls)
        lags = [c.lag_ms for c in calls if c.outcome is not Outcome.DROPPED]
        late = sum(lag > LATE_MS for lag in lags)
        return cls(cpu_share, percentile(lags, 50), percentile(lags, 99), late, len(calls) - len(lags))

    def bottlenecks(self, limits: Limits) -> list[str]:
        """Say why the run is invalid, a sentence a reason; empty if it is valid."""
        reasons = []
        if self.cpu_share > limits.cpu_share:
            reasons.append(f"the generator used {self.cpu_share:.0%} of a core, at most {limits.cpu_share:.0%} may")
        if self.lag_p99_ms is not None and self.lag_p99_ms > limits.lag_p99_ms:
            reasons.append(f"schedule lag has a p99 of {self.lag_p99_ms:.0f} ms, at most {limits.lag_p99_ms:g} ms may")
        return reasons


class CpuMeter:
    """The share of one core that this process uses, from its making on."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def share(self) -> float:
        """Return the CPU seconds of all threads per second of wall clock."""
        elapsed = time.perf_counter() - self._wall
        return (time.process_time() - self._cpu) / elapsed if elapsed > 0 else 0.0
