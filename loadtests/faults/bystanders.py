"""Clients that go on calling while a server is broken: what they see, and when all is well again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loadtests.endpoints import ENDPOINTS, Caller
from serving.client import ReverieError

WATCHED = ("generate", "score", "stylize", "style")
DEADLINE_S = 10.0
_GRACE_S = 2.0
"""For a deadline to be noticed on a busy machine."""
_PAUSE_S = 0.05
_IN_A_ROW = 3
"""Good answers of every endpoint, one after another, that count as recovered."""


@dataclass(frozen=True)
class Seen:
    """The end of a call.

    Attributes:
        began: when it was sent, by `time.monotonic`; seconds: how long it took.
        error: the status and the message; empty where it was answered.
    """

    endpoint: str
    began: float
    seconds: float
    code: str = ""
    error: str = ""

    @property
    def is_late(self) -> bool:
        """It took longer than its deadline."""
        return self.seconds > DEADLINE_S + _GRACE_S

    @property
    def is_clear(self) -> bool:
        """It was answered, or failed in time with a reason."""
        return not self.is_late and (not self.code or bool(self.error.strip()))


@dataclass
class Bystanders:
    """One caller for each of `endpoints`, from entering the context to leaving it."""

    address: str
    endpoints: Iterable[str] = WATCHED
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._call, args=(e,), daemon=True) for e in self.endpoints]

    def __enter__(self) -> Bystanders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_recovery(self, within_s: float) -> float | None:
        """Seconds until the first of the good answers in a row that every endpoint then gives; None if too late."""
        began = time.monotonic()

        def recovered() -> float | None:
            ends = [self._good_since(endpoint, began) for endpoint in self.endpoints]
            return max(e for e in ends if e is not None) - began if None not in ends else None

        with self._changed:
            self._changed.wait_for(lambda: recovered() is not None, within_s)
            return recovered()

    def _good_since(self, endpoint: str, began: float) -> float | None:
        """When the call ended that began the last run of good ones, if that run is long enough."""
        calls = [s for s in self.seen if s.endpoint == endpoint and s.began >= began]
        good = 0
        while good < len(calls) and not calls[-1 - good].code:
            good += 1
        return calls[-good].began + calls[-good].seconds if good >= _IN_A_ROW else None

    def _call(self, endpoint: str) -> None:
        rng = random.Random(endpoint)
        with Caller(self.address, timeout=DEADLINE_S) as client:
            while not self._stop.wait(_PAUSE_S):
                seen = call(endpoint, lambda: list(ENDPOINTS[endpoint].request(client, rng)))
                with self._changed:
                    self.seen.append(seen)
                    self._changed.notify_all()


def call(endpoint: str, request: Callable[[], object]) -> Seen:
    """Send one request and say how it ended."""
    began = time.monotonic()
    try:
        request()
    except ReverieError as error:
        return Seen(endpoint, began, time.monotonic() - began, error.code.name, error.message)
    return Seen(endpoint, began, time.monotonic() - began)


def failures(seen: Iterable[Seen]) -> dict[str, dict[str, int]]:
    """How many calls of each endpoint ended with which status."""
    found: dict[str, Counter[str]] = {}
    for one in seen:
        if one.code:
            found.setdefault(one.endpoint, Counter())[one.code] += 1
    return {endpoint: dict(codes) for endpoint, codes in sorted(found.items())}
