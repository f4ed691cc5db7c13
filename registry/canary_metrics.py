"""What Triton's metrics say of two versions while they are watched: calls, failures and 95th percentiles.

Every client counts, since the numbers are the server's own. Knows nothing of labels, nor of who wins.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from reverie_client import proxies

from registry import canary_latency
from registry.rollout import SwitchError
from reverie.prometheus import read_samples

_SUMMARY = "nv_inference_request_summary_us"
"""Quantiles of the calls of the last minute."""
_FAILURES = ("BACKEND", "OTHER", "REJECTED")
"""Reasons that count; CANCELED is the caller's."""


@dataclass(frozen=True)
class CanaryMetrics:
    """What a version did while it was watched; `p95_ms`, `spread` and `quality` None where unknown.

    Attributes:
        quality: the task's quality metric, of which less is better.
        spread: standard deviation of the logarithm of its calls' times.
    """

    version: int
    requests: int = 0
    failures: int = 0
    p95_ms: float | None = None
    quality: float | None = None
    spread: float | None = None

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0


def observe(text: str, model: str, version: int) -> CanaryMetrics:
    """One version's counters and 95th percentile in Triton's metrics."""
    values: dict[tuple[str, str], float] = {}
    for sample in read_samples(text):
        found = sample.labels
        if found.get("model") == model and found.get("version") == str(version):
            values[sample.name, found.get("reason") or found.get("quantile") or ""] = sample.value
    quantiles = {q: values[_SUMMARY, str(q)] for q in (0.5, 0.9, 0.95, 0.99) if (_SUMMARY, str(q)) in values}
    failures = int(sum(values.get(("nv_inference_request_failure", reason), 0) for reason in _FAILURES))
    p95 = quantiles.get(0.95, math.nan) / 1000
    successes = int(values.get(("nv_inference_request_success", ""), 0))
    return CanaryMetrics(
        version,
        successes + failures,
        failures,
        None if math.isnan(p95) else p95,
        spread=canary_latency.spread(quantiles),
    )


def watch(
    model: str,
    versions: tuple[int, int],
    seconds: float,
    url: str,
    is_over: Callable[[CanaryMetrics, CanaryMetrics], bool],
    on_sample: Callable[[CanaryMetrics, CanaryMetrics], None] | None = None,
) -> tuple[CanaryMetrics, CanaryMetrics]:
    """What the stable version and the canary did, in this order, since the call.

    Args:
        seconds: how long to watch at most.
        url: of the server's metrics.
        is_over: looks at both after each sample, and ends the watch early.
        on_sample: likewise, to tell somebody.

    Raises:
        SwitchError: nothing answers at `url`.
    """
    pause = min(10.0, max(0.2, seconds / 20))
    first = [_fetch(url, model, v) for v in versions]
    samples: list[list[CanaryMetrics]] = [[], []]
    end = time.monotonic() + seconds
    while True:
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        seen = [_since(_fetch(url, model, o.version), o) for o in first]
        for known, one in zip(samples, seen, strict=True):
            known.append(one)
        stable, canary = (_typical(now, known) for now, known in zip(seen, samples, strict=True))
        if on_sample:
            on_sample(stable, canary)
        if is_over(stable, canary) or time.monotonic() >= end:
            return stable, canary


def _typical(now: CanaryMetrics, samples: Sequence[CanaryMetrics]) -> CanaryMetrics:
    """The counts as they are `now`, with the medians of the percentiles that were seen."""
    return replace(now, p95_ms=_median(s.p95_ms for s in samples), spread=_median(s.spread for s in samples))


def _median(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def _since(now: CanaryMetrics, before: CanaryMetrics) -> CanaryMetrics:
    """Counters start again at nothing where a version was reloaded."""
    if now.requests < before.requests:
        return now
    return replace(now, requests=now.requests - before.requests, failures=now.failures - before.failures)


def _fetch(url: str, model: str, version: int) -> CanaryMetrics:
    try:
        with proxies.open_url(url, timeout=10) as answer:
            return observe(answer.read().decode(), model, version)
    except (OSError, ValueError) as error:
        raise SwitchError(f"{url} does not answer ({error}); give the server's --metrics") from None
