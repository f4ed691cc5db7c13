"""The server's side of a load test: Triton's counters, polled, and what happened between two polls.

Triton's latencies are cumulative counters (docs: user_guide/metrics.md), so means of an interval are
differences: queue time over requests, compute time over requests, requests over executions (the mean batch).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie_client import proxies

from reverie.prometheus import read_samples

COUNTERS = {
    "requests": "nv_inference_request_success",
    "inferences": "nv_inference_count",
    "executions": "nv_inference_exec_count",
    "queue_us": "nv_inference_queue_duration_us",
    "compute_us": "nv_inference_compute_infer_duration_us",
}


@dataclass(frozen=True)
class Poll:
    """All counters at one time: `values[model][counter]`, counters named as in `COUNTERS`."""

    at_s: float
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Interval:
    """What one model did between two polls.

    Attributes:
        at_s: the interval's middle.
        requests_per_s: answered requests.
        queue_ms, compute_ms: means of a request; None where none was answered.
        batch: requests an execution of the model; None where nothing was executed.
    """

    model: str
    at_s: float
    requests_per_s: float
    queue_ms: float | None
    compute_ms: float | None
    batch: float | None


def parse(text: str) -> dict[str, dict[str, float]]:
    """Read `COUNTERS` out of Triton's metrics, and add up the versions of each model.

    Raises:
        ValueError: `text` is not in the Prometheus text format.
    """
    names = {metric: counter for counter, metric in COUNTERS.items()}
    values: dict[str, dict[str, float]] = {}
    for sample in read_samples(text):
        if sample.name in names and "model" in sample.labels:
            counters = values.setdefault(sample.labels["model"], dict.fromkeys(COUNTERS, 0.0))
            counters[names[sample.name]] += sample.value
    return values


def intervals(polls: Sequence[Poll]) -> list[Interval]:
    """Return what every model did between each two polls; a server that was restarted in between is left out."""
    found = []
    for before, after in itertools.pairwise(polls):
        for model, counters in after.values.items():
            earlier = before.values.get(model, dict.fromkeys(COUNTERS, 0.0))
            change = {name: value - earlier[name] for name, value in counters.items()}
            if after.at_s > before.at_s and min(change.values()) >= 0:
                found.append(_interval(model, before.at_s, after.at_s, change))
    return found


def _interval(model: str, start: float, end: float, change: Mapping[str, float]) -> Interval:
    answered = change["requests"]

    def mean(total: float, count: float) -> float | None:
        return total / count if count else None

    return Interval(
        model,
        (start + end) / 2,
        change["requests"] / (end - start),
        mean(change["queue_us"] / 1000, answered),
        mean(change["compute_us"] / 1000, answered),
        mean(change["inferences"], change["executions"]),
    )


class Poller:
    """Collects the counters of the server whose metrics are at `url`; an empty one is never asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.polls: list[Poll] = []
        self._began = time.perf_counter()

    def poll(self) -> None:
        """Read the counters now; a server that does not answer leaves a gap."""
        if not self.url:
            return
        with contextlib.suppress(OSError, ValueError), proxies.open_url(self.url, timeout=2.0) as reply:
            at_s = time.perf_counter() - self._began
            self.polls.append(Poll(at_s, parse(reply.read().decode())))
