"""Whether a canary fails, or is slow, more often than chance explains; knows nothing of servers, only counts.

Calls are split between two versions at random. If the versions are equal, the failed ones among the canary's are a draw
without replacement, so their number follows the hypergeometric distribution (Fisher's exact test). So do those that took
longer than the stable version's limit, whatever the times are like.
"""

from __future__ import annotations

from scipy.stats import hypergeom

from registry import canary_latency
from registry.canary_metrics import CanaryMetrics

_FAILURES_BY_CHANCE = 0.05
"""Of equal versions so many would fail as often; then only what the version itself breaks counts."""
_SLOW_BY_CHANCE = 0.01
_CERTAIN = 0.001
"""Then there is no need to watch on."""


def failures_may_be_chance(stable: CanaryMetrics, canary: CanaryMetrics) -> bool:
    """Whether an equal version may well have failed as often.

    An INTERNAL error never falls on a version by chance, if the stable one had none.
    """
    if canary.broken and not stable.broken:
        return False
    return _of_failures(stable, canary) >= _FAILURES_BY_CHANCE


def failures_are_certain(stable: CanaryMetrics, canary: CanaryMetrics) -> bool:
    """Whether hardly any equal version would have failed as often."""
    return _of_failures(stable, canary) < _CERTAIN


def slowness_may_be_chance(stable: CanaryMetrics, canary: CanaryMetrics, limit: float) -> bool:
    """Whether of an equal version as many calls may well have taken longer than `limit` times the stable one's p95.

    Where only quantiles are known, as of Triton's own metrics, by the error that a quantile of so many calls has.
    """
    if stable.p95_ms is None or canary.p95_ms is None:
        return True
    if stable.times and canary.times:
        longest = limit * stable.p95_ms
        slow = [side.slower_than(longest) for side in (stable, canary)]
        return _probability(stable.timed, canary.timed, *slow) >= _SLOW_BY_CHANCE
    spread = canary_latency.TYPICAL_SPREAD if stable.spread is None else stable.spread
    return canary.p95_ms <= stable.p95_ms * canary_latency.chance_ratio(spread, stable.requests, canary.requests)


def _of_failures(stable: CanaryMetrics, canary: CanaryMetrics) -> float:
    return _probability(stable.requests, canary.requests, stable.failures, canary.failures)


def _probability(stable_calls: int, canary_calls: int, stable_found: int, canary_found: int) -> float:
    """Of at least as many of what was found among the canary's calls, if the versions are equal."""
    calls, found = stable_calls + canary_calls, stable_found + canary_found
    return float(hypergeom.sf(canary_found - 1, calls, found, canary_calls)) if canary_found else 1.0
