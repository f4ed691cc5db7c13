"""Clients that go on calling while a fault holds: what they see, and when the server has recovered."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadtests.calls import Call, make_call
from loadtests.endpoints import ENDPOINTS, Caller

WATCHED = ("generate", "score", "stylize", "style")
DEADLINE_S = 10.0
_GRACE_S = 2.0
"""For a deadline to be noticed on a busy machine."""
_PAUSE_S = 0.05
_IN_A_ROW = 3
"""Good answers of every endpoint, one after another, that count as recovered."""


def is_clear(call: Call) -> bool:
    """Say whether a call was answered in full, or failed before its deadline with a reason."""
    in_time = call.finished_s - call.started_s <= DEADLINE_S + _GRACE_S
    return in_time and (not call.error or bool(call.error.partition(":")[2].strip()))


@dataclass
class ProbeClients:
    """One caller for each of `endpoints`, from entering the context to leaving it."""

    address: str
    endpoints: Iterable[str] = WATCHED
    seen: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._call, args=(e,), daemon=True) for e in self.endpoints]

    def __enter__(self) -> ProbeClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_recovery(self, within_s: float) -> float | None:
        """Wait until every endpoint gives good answers in a row; return the seconds to the first of them, None if too late."""
        began = time.monotonic()

        def recovered() -> float | None:
            ends = [self._good_since(endpoint, began) for endpoint in self.endpoints]
            return max(e for e in ends if e is not None) - began if None not in ends else None

        with self._changed:
            self._changed.wait_for(lambda: recovered() is not None, within_s)
            return recovered()

    def _good_since(self, endpoint: str, began: float) -> float | None:
        """When the call ended that began the last run of good ones, if that run is long enough."""
        calls = [c for c in self.seen if c.endpoint == endpoint and c.started_s >= began]
        good = list(itertools.takewhile(lambda call: not call.error, reversed(calls)))
        return good[-1].finished_s if len(good) >= _IN_A_ROW else None

    def _call(self, endpoint: str) -> None:
        rng = random.Random(endpoint)
        with Caller(self.address, timeout=DEADLINE_S) as client:
            while not self._stop.wait(_PAUSE_S):
                seen = make_call(ENDPOINTS[endpoint], client, rng.getrandbits(31), clock=time.monotonic)
                with self._changed:
                    self.seen.append(seen)
                    self._changed.notify_all()


def failures(calls: Iterable[Call]) -> dict[str, dict[str, int]]:
    """Count the failed calls of each endpoint by status."""
    found: dict[str, Counter[str]] = {}
    for call in calls:
        if call.error:
            found.setdefault(call.endpoint, Counter())[call.error.partition(":")[0]] += 1
    return {endpoint: dict(codes) for endpoint, codes in sorted(found.items())}
