"""The search for the highest rate that meets objectives, and what overload does to them; pure computation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.calls import Call, Outcome
from loadtests.measure import Measured, percentile
from loadtests.slo import Objective, OverloadBounds

SETTLED = 3
"""So many good answers at the end show that a server has recovered."""


@dataclass(frozen=True)
class Search:
    """How to look for a capacity.

    Attributes:
        precision: the answer is within this factor, less one, of a rate that does not meet the objectives.
        lowest, highest: rates outside these are not tried, in requests per second.
    """

    precision: float = 0.05
    lowest: float = 0.05
    highest: float = 2000.0


def highest_rate(meets: Callable[[float], bool], start: float, search: Search | None = None) -> float | None:
    """Find the highest rate that meets objectives: steps of two around `start`, then bisection on a logarithmic scale.

    The lowest rate that failed is tried again at the end, and the search goes on above it if it is met then: a busy
    neighbor makes a step fail, none makes one succeed.

    Args:
        meets: tries a rate, and says whether the objectives were met; assumed to hold below a rate and not above.
        start: the rate tried first.

    Returns:
        A rate that was tried and met them, or None where even the lowest did not.
    """
    search = search or Search()
    rate = min(max(start, search.lowest), search.highest)
    low, high = _bracket(meets, rate, search)
    if low is None:
        return None
    too_high = [high]
    while True:
        while too_high[-1] / low > 1 + search.precision:
            middle = math.sqrt(low * too_high[-1])
            if meets(middle):
                low = middle
            else:
                too_high.append(middle)
        if len(too_high) == 1 or not meets(too_high[-1]):
            return low
        low = too_high.pop()


def _bracket(meets: Callable[[float], bool], rate: float, search: Search) -> tuple[float | None, float]:
    """The highest rate in steps of two that meets the objectives, and the one above it."""
    if meets(rate):
        while rate < search.highest and meets(min(2 * rate, search.highest)):
            rate = min(2 * rate, search.highest)
        return rate, 2 * rate if rate < search.highest else rate
    while rate > search.lowest:
        rate = max(rate / 2, search.lowest)
        if meets(rate):
            return rate, 2 * rate
    return None, rate


@dataclass(frozen=True)
class Overload:
    """What three times capacity did.

    Attributes:
        goodput_at_3x: good answers per second over those at capacity; None where there were none.
        p99_ratio_at_3x: p99 of answered requests over that at capacity; None where none was answered.
        reject_ms_p99: p99 of the time to a refusal; None where nothing was refused.
        recovery_seconds: from the surge's end to the first request after which every answer was good;
            None where the server did not recover while it was watched.
        refused, failed: of the surge's requests.
    """

    goodput_at_3x: float | None
    p99_ratio_at_3x: float | None
    reject_ms_p99: float | None
    recovery_seconds: float | None
    refused: int
    failed: int

    def violations(self, bounds: OverloadBounds) -> list[str]:
        """Say how it breaks `bounds`, a sentence a violation."""
        found = []
        if self.goodput_at_3x is None or self.goodput_at_3x < bounds.goodput_at_3x:
            found.append(f"goodput_at_3x is {_told(self.goodput_at_3x)}, at least {bounds.goodput_at_3x:g} promised")
        if self.p99_ratio_at_3x is None or self.p99_ratio_at_3x > bounds.p99_ratio_at_3x:
            found.append(
                f"p99_ratio_at_3x is {_told(self.p99_ratio_at_3x)}, at most {bounds.p99_ratio_at_3x:g} promised"
            )
        if self.reject_ms_p99 is not None and self.reject_ms_p99 > bounds.reject_ms_p99:
            found.append(f"reject_ms_p99 is {_told(self.reject_ms_p99)}, at most {bounds.reject_ms_p99:g} promised")
        if self.recovery_seconds is None or self.recovery_seconds > bounds.recovery_seconds:
            found.append(
                f"recovery_seconds is {_told(self.recovery_seconds)}, at most {bounds.recovery_seconds:g} promised"
            )
        return found


def overload(calls: Sequence[Call], objective: Objective, surge: tuple[float, float]) -> Overload:
    """Compare a surge with the load at capacity before it, and look at what came after.

    Args:
        calls: of one endpoint: at capacity, then from `surge[0]` to `surge[1]` seconds at three times that,
            then below it.
    """
    begins, ends = surge
    before = [c for c in calls if c.scheduled_s < begins]
    during = [c for c in calls if begins <= c.scheduled_s < ends]
    after = [c for c in calls if c.scheduled_s >= ends]
    usual = Measured.of(before, begins, objective.good_ms)
    surging = Measured.of(during, ends - begins, objective.good_ms)
    return Overload(
        goodput_at_3x=_ratio(surging.goodput_per_s, usual.goodput_per_s),
        p99_ratio_at_3x=_ratio(surging.p99_ms, usual.p99_ms),
        reject_ms_p99=percentile([c.milliseconds for c in during if c.outcome is Outcome.REFUSED], 99),
        recovery_seconds=recovery_seconds(after, ends, objective.good_ms),
        refused=surging.refused,
        failed=surging.failures - surging.refused,
    )


def typical(rounds: Sequence[Overload]) -> Overload:
    """Return the median of each measure over several surges, of two in the middle the worse; a missing one is the worst.

    Only a time to refusals that never were is left out. Refused and failed requests are added up.
    """

    def median(name: str) -> float | None:
        found = [math.inf if (value := getattr(o, name)) is None else value for o in rounds]
        return _finite(statistics.median_high(found))

    goodputs = [-math.inf if o.goodput_at_3x is None else o.goodput_at_3x for o in rounds]
    refusals = [o.reject_ms_p99 for o in rounds if o.reject_ms_p99 is not None]
    return Overload(
        goodput_at_3x=_finite(statistics.median_low(goodputs)),
        p99_ratio_at_3x=median("p99_ratio_at_3x"),
        reject_ms_p99=statistics.median_high(refusals) if refusals else None,
        recovery_seconds=median("recovery_seconds"),
        refused=sum(o.refused for o in rounds),
        failed=sum(o.failed for o in rounds),
    )


def recovery_seconds(after: Sequence[Call], surge_ended_s: float, good_ms: float) -> float | None:
    """Return the seconds from the surge's end to when the last request that was not answered well was due.

    Zero where all were, None where fewer than `SETTLED` good answers follow it.
    """
    ordered = sorted(after, key=lambda c: c.scheduled_s)
    bad = [i for i, c in enumerate(ordered) if c.outcome is not Outcome.ANSWERED or c.milliseconds > good_ms]
    if len(ordered) - (bad[-1] + 1 if bad else 0) < SETTLED:
        return None
    return ordered[bad[-1] + 1].scheduled_s - surge_ended_s if bad else 0.0


def worst(found: Sequence[Overload]) -> dict[str, float | None]:
    """Return the worst value of each measure over all endpoints; None where one has none but should."""
    return {
        "goodput_at_3x": _unless_missing(min, [o.goodput_at_3x for o in found]),
        "p99_ratio_at_3x": _unless_missing(max, [o.p99_ratio_at_3x for o in found]),
        "reject_ms_p99": max((o.reject_ms_p99 for o in found if o.reject_ms_p99 is not None), default=None),
        "recovery_seconds": _unless_missing(max, [o.recovery_seconds for o in found]),
    }


def _unless_missing(choose: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return choose(present) if present and len(present) == len(values) else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
