"""The server's side of a load test: its metrics, polled, and what happened between two polls.

Ours (docs/metrics.md) count a request by its status and time it to its last message. Triton's own do so for its C++ backends
only, so they are read of a model that has none of ours, and say less: means, and no first message.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reverie_client import proxies

from reverie.prometheus import Snapshot

_REQUESTS, _ROWS = "reverie_requests", "reverie_decode_batch_rows"
_TRITON = "nv_inference_"
P50, P95 = 0.5, 0.95


@dataclass(frozen=True)
class Poll:
    """All metrics at one time."""

    at_s: float
    snapshot: Snapshot


@dataclass(frozen=True)
class ServerSide:
    """What the server says of one model over some time; times are None where nothing was observed.

    Attributes:
        statuses: how many requests ended with each gRPC status; of Triton's, OK and its reasons for failures.
        queue_ms, queue_p95_ms: from arrival until work began, mean and 95th percentile.
        request_ms, p50_ms, p95_ms: of those answered, from arrival to the last message, mean and percentiles.
        first_message_ms: mean time to the first message.
        batch: texts a step of the decoder; of Triton's, requests an execution.
    """

    model: str
    statuses: Mapping[str, int]
    queue_ms: float | None = None
    queue_p95_ms: float | None = None
    request_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    first_message_ms: float | None = None
    batch: float | None = None


@dataclass(frozen=True)
class Interval:
    """What one model did between two polls; `at_s` is the middle."""

    model: str
    at_s: float
    requests_per_s: float
    side: ServerSide


def server_sides(added: Snapshot) -> dict[str, ServerSide]:
    """Return what was added to the metrics, by model."""
    ours = added.by("model", _REQUESTS)
    tritons = added.by("model", f"{_TRITON}request_success").keys() - ours.keys()
    return {m: _ours(added, m) for m in sorted(ours)} | {m: _tritons(added, m) for m in sorted(tritons)}


def _ours(added: Snapshot, model: str) -> ServerSide:
    def mean(name: str, unit: float = 1000.0) -> float | None:
        return _mean(unit * added.total(f"{name}_sum", model=model), added.total(f"{name}_count", model=model))

    def quantile(q: float, name: str) -> float | None:
        seconds = added.quantile(q, name, model=model)
        return None if seconds is None else 1000 * seconds

    whole, queue = "reverie_request_seconds", "reverie_queue_seconds"
    return ServerSide(
        model,
        {status: int(n) for status, n in added.by("status", _REQUESTS, model=model).items() if n},
        mean(queue),
        quantile(P95, queue),
        mean(whole),
        quantile(P50, whole),
        quantile(P95, whole),
        mean("reverie_first_message_seconds"),
        mean(_ROWS, unit=1.0),
    )


def _tritons(added: Snapshot, model: str) -> ServerSide:
    def total(name: str) -> float:
        return added.total(_TRITON + name, model=model)

    answered = total("request_success")
    failures = added.by("reason", f"{_TRITON}request_failure", model=model)
    return ServerSide(
        model,
        {status: int(n) for status, n in {"OK": answered, **failures}.items() if n},
        queue_ms=_mean(total("queue_duration_us") / 1000, answered),
        request_ms=_mean(total("request_duration_us") / 1000, answered),
        batch=_mean(total("count"), total("exec_count")),
    )


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def intervals(polls: Sequence[Poll]) -> list[Interval]:
    """Return what every model did between each two polls."""
    found = []
    for before, after in itertools.pairwise(polls):
        seconds = after.at_s - before.at_s
        for model, side in server_sides(after.snapshot.since(before.snapshot)).items() if seconds > 0 else ():
            at_s = (before.at_s + after.at_s) / 2
            found.append(Interval(model, at_s, sum(side.statuses.values()) / seconds, side))
    return found


def whole(polls: Sequence[Poll]) -> dict[str, ServerSide]:
    """Return what every model did from the first poll to the last."""
    return server_sides(polls[-1].snapshot.since(polls[0].snapshot)) if len(polls) > 1 else {}


class Poller:
    """Collects the metrics of the server at `url`; an empty one is never asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.polls: list[Poll] = []
        self._began = time.perf_counter()

    def poll(self) -> None:
        """Read the metrics now; a server that does not answer leaves a gap."""
        if not self.url:
            return
        with contextlib.suppress(OSError, ValueError), proxies.open_url(self.url, timeout=2.0) as reply:
            at_s = time.perf_counter() - self._began
            self.polls.append(Poll(at_s, Snapshot.read(reply.read().decode())))
