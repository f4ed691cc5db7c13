"""What a server's metrics say of each version of a model over some seconds, a line each; for `reverie health --metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from reverie_client import proxies

from reverie.prometheus import Snapshot

_REQUESTS, _SECONDS, _IN_FLIGHT = "reverie_requests", "reverie_request_seconds", "reverie_in_flight"
_NO_FAULT = ("OK", "CANCELLED", "INVALID_ARGUMENT")
"""Statuses that are no failure of the server."""
_TIMEOUT = 5.0


def watch(url: str, seconds: float) -> list[str]:
    """Read the metrics at `url` twice, so many seconds apart, and return what happened in between.

    Raises:
        OSError: they cannot be read.
        ValueError: what is there is not in the Prometheus text format.
    """
    before = _read(url)
    time.sleep(seconds)
    return list(describe(before, _read(url)))


def describe(before: Snapshot, now: Snapshot) -> Iterator[str]:
    """Yield a line for each version of a model."""
    added = now.since(before)
    for model in sorted(now.by("model", _REQUESTS)):
        for version in sorted(now.by("version", _REQUESTS, model=model), key=lambda v: (len(v), v)):
            yield _line(added, now, model, version)


def _line(added: Snapshot, now: Snapshot, model: str, version: str) -> str:
    statuses = added.by("status", _REQUESTS, model=model, version=version)
    requests = sum(statuses.values())
    failed = sum(count for status, count in statuses.items() if status not in _NO_FAULT)
    p95 = added.quantile(0.95, _SECONDS, model=model, version=version)
    waiting = now.total(_IN_FLIGHT, model=model, version=version, state="waiting")
    told = f"{model} version {version}: {requests:.0f} requests"
    if requests:
        told += f", {failed / requests:.1%} failed"
    if p95 is not None:
        told += f", p95 {1000 * p95:.0f} ms"
    return f"{told}, {waiting:.0f} waiting"


def _read(url: str) -> Snapshot:
    with proxies.open_url(url, _TIMEOUT) as reply:
        return Snapshot.read(reply.read().decode())
