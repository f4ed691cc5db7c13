"""Whether a canary is slower than chance explains; knows nothing of servers, only two percentiles and how many calls they are of.

A 95th percentile of few calls is the time of one or two of them, and moves by chance. Its logarithm has a standard error of
`spread * 2.11 / sqrt(calls)`, the usual one of a quantile of n values, sqrt(p (1 - p) / n) / density, for times whose
logarithms are normal with the standard deviation `spread`. The stable version's own percentiles say what that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

CONFIDENCE_Z = 2.3263
"""So many standard errors: of equal versions about one in a hundred is called slower."""
TYPICAL_SPREAD = 0.4
"""Where a server does not tell the percentiles that the spread is read from."""

_Z = {0.5: 0.0, 0.9: 1.2816, 0.95: 1.6449, 0.99: 2.3263}
"""Normal quantiles."""
_ERROR = math.sqrt(0.95 * 0.05) / (math.exp(-(_Z[0.95] ** 2) / 2) / math.sqrt(2 * math.pi))
"""Standard error of the 95th percentile of one normal value, in standard deviations: 2.11."""


def spread(quantiles: Mapping[float, float]) -> float | None:
    """Standard deviation of the logarithm of times with these quantiles (0.5, 0.9, 0.95, 0.99); None if too few are known.

    The larger of what the middle and what the tail says: times of two kinds of calls are far from normal.
    """
    pairs = ((0.5, 0.95), (0.9, 0.99))
    found = [
        math.log(quantiles[high] / quantiles[low]) / (_Z[high] - _Z[low])
        for low, high in pairs
        if 0 < quantiles.get(low, math.nan) <= quantiles.get(high, math.nan) < math.inf
    ]
    return max(found) if found else None


def chance_ratio(spread: float, stable_calls: int, canary_calls: int) -> float:
    """How many times the stable version's p95 that of an equal version may be by chance, in 99 of 100 trials."""
    if min(stable_calls, canary_calls) < 1:
        return math.inf
    exponent = CONFIDENCE_Z * spread * _ERROR * math.sqrt(1 / stable_calls + 1 / canary_calls)
    return math.exp(exponent) if exponent < 700 else math.inf
