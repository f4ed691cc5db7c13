"""The metrics of one model's requests: a request is measured from its arrival to the last message of its answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.telemetry import definitions
from serving.telemetry.identity import Identity, TraceParent

OK = "OK"
_STATUSES = (OK, "INVALID_ARGUMENT", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL")
"""Are there from the beginning, at 0: of a counter that appears at 5, Prometheus sees no increase."""
_DEADLINE_JITTER = 0.1
"""Seconds by which gRPC may cancel a call before its deadline, seen from its arrival here."""


class Observer(Protocol):
    """Somebody who is told of each request."""

    def arrived(self, request: RequestMeasurement) -> None:
        """It has just come."""

    def finished(self, request: RequestMeasurement, now: float) -> None:
        """It has just ended, at `now` by `time.perf_counter`."""


class ModelMetrics:
    """What is measured of a version of a model, with its labels looked up once.

    Args:
        observers: are told of each request.
    """

    def __init__(self, model: str, version: str, observers: tuple[Observer, ...] = ()):
        labels = (model, version)
        self.model, self.version, self.observers = model, version, observers
        self._requests = {status: definitions.REQUESTS.labels(*labels, status) for status in _STATUSES}
        self._labels = labels
        self.request_seconds = definitions.REQUEST_SECONDS.labels(*labels)
        self.queue_seconds = definitions.QUEUE_SECONDS.labels(*labels)
        self.first_message_seconds = definitions.FIRST_MESSAGE_SECONDS.labels(*labels)
        self.between_messages_seconds = definitions.BETWEEN_MESSAGES_SECONDS.labels(*labels)
        self.waiting = definitions.IN_FLIGHT.labels(*labels, "waiting")
        self.running = definitions.IN_FLIGHT.labels(*labels, "running")

    def count(self, status: str) -> None:
        """Count a request that has ended, by gRPC status."""
        if status not in self._requests:
            self._requests[status] = definitions.REQUESTS.labels(*self._labels, status)
        self._requests[status].inc()

    def arrival(self, timeout: float = math.inf, identity: Identity | None = None) -> RequestMeasurement:
        """Begin to measure a request that has just arrived, and whose caller waits for `timeout` seconds."""
        return RequestMeasurement(self, timeout, identity or Identity.of())


@dataclass(eq=False)
class RequestMeasurement:
    """One request's way through a model; `finish` counts it, once.

    Attributes:
        arrived, began, first, last: when it came, when work on it began, and when its first and its newest message left, by
            `time.perf_counter`; 0.0 before.
        status: gRPC's name, once it has ended.
        tokens: that were generated for it.
        pixels: of the pictures that were made for it.
        timeout: seconds after its arrival that its caller waits.
        identity: who it is.
        place: in its trace; None where it is in none.
        encoding: when the making of its last message began; 0.0 where nobody said.
        span: what the tracer keeps of it.
    """

    metrics: ModelMetrics
    timeout: float = math.inf
    identity: Identity = field(default_factory=Identity.of)
    arrived: float = field(default_factory=time.perf_counter)
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0
    status: str = ""
    tokens: int = 0
    pixels: int = 0
    encoding: float = 0.0
    place: TraceParent | None = None
    span: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.metrics.waiting.inc()
        if self.identity.parent:
            self.place = self.identity.parent.child()
        for observer in self.metrics.observers:
            observer.arrived(self)

    @property
    def is_late(self) -> bool:
        """Whether its caller waits no longer."""
        return time.perf_counter() - self.arrived >= self.timeout

    def begin(self) -> None:
        """Work on it begins; said again, nothing happens."""
        with self._lock:
            if self.began or self.status:
                return
            self.began = time.perf_counter()
        self.metrics.waiting.dec()
        self.metrics.running.inc()
        self.metrics.queue_seconds.observe(self.began - self.arrived)

    def encode(self, pixels: int = 0) -> None:
        """The making of its last message begins, which has so many pixels."""
        self.encoding, self.pixels = time.perf_counter(), self.pixels + pixels

    def message(self) -> None:
        """A message of its answer leaves."""
        now = time.perf_counter()
        if self.first:
            self.metrics.between_messages_seconds.observe(now - self.last)
        else:
            self.first = now
            self.metrics.first_message_seconds.observe(now - self.arrived)
        self.last = now

    def finish(self, status: str) -> None:
        """Its last message leaves; `status` is gRPC's name. Said again, nothing happens.

        What is late reaches nobody, and what was cancelled at its deadline was not by a person.
        """
        now = time.perf_counter()
        if status in (OK, "CANCELLED") and now - self.arrived >= self.timeout - _DEADLINE_JITTER * (status != OK):
            status = "DEADLINE_EXCEEDED"
        with self._lock:
            if self.status:
                return
            self.status = status
        (self.metrics.running if self.began else self.metrics.waiting).dec()
        self.metrics.count(status)
        if status == OK:
            self.metrics.request_seconds.observe(now - self.arrived)
        self.metrics.between_messages_seconds.flush()
        for observer in self.metrics.observers:
            observer.finished(self, now)


_current: ContextVar[RequestMeasurement | None] = ContextVar("the request that this thread answers", default=None)


def current() -> RequestMeasurement | None:
    """Return the request that this thread answers; None where it answers none."""
    return _current.get()


@contextmanager
def answering(request: RequestMeasurement) -> Iterator[None]:
    """In the block, this thread answers `request`."""
    token = _current.set(request)
    try:
        yield
    finally:
        _current.reset(token)
