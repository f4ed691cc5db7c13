"""Whether a canary fails more often than chance explains; knows nothing of servers, only counts.

Calls are split between two versions at random. If the versions are equal, the failed calls among the canary's are a draw
without replacement, so their number follows the hypergeometric distribution (Fisher's exact test).
"""

from __future__ import annotations

from scipy.stats import hypergeom

from registry.canary_metrics import CanaryMetrics

_CHANCE = 0.05
"""Of equal versions so many would show as large a difference; then it counts only as far as the version itself is broken."""
_CERTAIN = 0.001
"""Then there is no need to watch on."""


def may_be_chance(stable: CanaryMetrics, canary: CanaryMetrics) -> bool:
    """Whether an equal version may well have failed as often.

    An INTERNAL error never falls on a version by chance, if the stable one had none.
    """
    if canary.broken and not stable.broken:
        return False
    return _probability(stable, canary) >= _CHANCE


def are_certain(stable: CanaryMetrics, canary: CanaryMetrics) -> bool:
    """Whether hardly any equal version would have failed as often."""
    return _probability(stable, canary) < _CERTAIN


def _probability(stable: CanaryMetrics, canary: CanaryMetrics) -> float:
    """Of at least as many failures of the canary, if the versions are equal."""
    calls = stable.requests + canary.requests
    failures = stable.failures + canary.failures
    return float(hypergeom.sf(canary.failures - 1, calls, failures, canary.requests))
