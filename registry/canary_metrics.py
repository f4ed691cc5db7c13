"""What a server's metrics say of two versions while they are watched: calls, how they ended, and how long they took.

Every client counts, since the numbers are the server's own. Ours count each request when its answer has left, by its gRPC
status. Triton's own do so only for its C++ backends: of a Python model they call an answer with an error a success, and stop
the clock when `execute` returns (https://github.com/triton-inference-server/server/issues/7713). So Triton's are read only
where a model has none of ours. Knows nothing of labels, nor of who wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from reverie_client import proxies

from registry import canary_latency
from registry.rollout import SwitchError
from reverie.prometheus import Snapshot

_REQUESTS, _SECONDS = "reverie_requests", "reverie_request_seconds"
_LEFT = "CANCELLED"
"""The status of a call whose caller has left, which says nothing of the version."""
_BROKEN = ("INTERNAL", "UNKNOWN")
"""Statuses that are a version's own fault."""
_TRITON_SUCCESSES, _TRITON_FAILURES = "nv_inference_request_success", "nv_inference_request_failure"
_TRITON_SUMMARY = "nv_inference_request_summary_us"
"""Quantiles of the calls of the last minute."""
_TRITON_BROKEN = ("BACKEND", "OTHER")


@dataclass(frozen=True)
class CanaryMetrics:
    """What a version did while it was watched; `p95_ms`, `spread` and `quality` None where unknown.

    Attributes:
        requests: calls whose callers stayed.
        failures: those of them that were not answered with OK.
        broken: those of the failures that are the version's own fault; the others are refusals, deadlines and callers'
            mistakes, which fall on a version by chance.
        quality: the task's quality metric, of which less is better.
        spread: standard deviation of the logarithm of its calls' times; known where only quantiles are.
        times: upper bounds in ms, rising, and how many calls took no longer; empty where only quantiles are known.
    """

    version: int
    requests: int = 0
    failures: int = 0
    p95_ms: float | None = None
    quality: float | None = None
    spread: float | None = None
    broken: int = 0
    times: tuple[tuple[float, float], ...] = ()

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0

    @property
    def timed(self) -> int:
        """Calls whose times are known."""
        return int(self.times[-1][1]) if self.times else 0

    def slower_than(self, milliseconds: float) -> int:
        """How many of them took longer, as far as the bounds tell: the next one above counts."""
        within = next((count for bound, count in self.times if bound >= milliseconds), self.timed)
        return self.timed - int(within)


def observe(added: Snapshot, model: str, version: int, now: Snapshot | None = None) -> CanaryMetrics:
    """What the metrics say of a version.

    Args:
        added: to them while it was watched.
        now: they themselves, whose quantiles count where they are Triton's; default: `added`.
    """
    which = {"model": model, "version": str(version)}
    statuses = added.by("status", _REQUESTS, **which)
    if not statuses:
        return _observe_triton(added, now or added, which, version)
    calls = sum(statuses.values()) - statuses.get(_LEFT, 0)
    p95 = added.quantile(0.95, _SECONDS, **which)
    return CanaryMetrics(
        version,
        int(calls),
        int(calls - statuses.get("OK", 0)),
        None if p95 is None else 1000 * p95,
        times=tuple((1000 * bound, count) for bound, count in added.buckets(_SECONDS, **which)),
        broken=int(sum(statuses.get(status, 0) for status in _BROKEN)),
    )


def _observe_triton(added: Snapshot, now: Snapshot, which: dict[str, str], version: int) -> CanaryMetrics:
    reasons = added.by("reason", _TRITON_FAILURES, **which)
    broken = int(sum(reasons.get(reason, 0) for reason in _TRITON_BROKEN))
    failures = broken + int(reasons.get("REJECTED", 0))
    found = {float(q): value for q, value in now.by("quantile", _TRITON_SUMMARY, **which).items() if value == value}
    p95 = found.get(0.95)
    return CanaryMetrics(
        version,
        int(added.total(_TRITON_SUCCESSES, **which)) + failures,
        failures,
        None if p95 is None else p95 / 1000,
        spread=canary_latency.spread(found),
        broken=broken,
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
    pause = min(5.0, max(0.2, seconds / 20))
    first, end = _fetch(url), time.monotonic() + seconds
    while True:
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        now = _fetch(url)
        stable, canary = (observe(now.since(first), model, version, now) for version in versions)
        if on_sample:
            on_sample(stable, canary)
        if is_over(stable, canary) or time.monotonic() >= end:
            return stable, canary


def _fetch(url: str) -> Snapshot:
    try:
        with proxies.open_url(url, timeout=10) as answer:
            return Snapshot.read(answer.read().decode())
    except (OSError, ValueError) as error:
        raise SwitchError(f"{url} does not answer ({error}); give the server's --metrics") from None
