"""Admission of requests, so many in all and so many for one client; and a queue in which clients take turns.

A client is who says so in the header `reverie-client`, which a proxy in front should set; all who say nothing count as
one. Knows nothing about Triton.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from reverie.errors import Unavailable

Item = TypeVar("Item")


class AdmissionController:
    """Counts what is waiting or running; safe to use from many threads.

    Args:
        total: of all clients together.
        of_one: of one client; by default half of all.
        unit: what is counted, for messages.
    """

    def __init__(self, total: int, of_one: int = 0, unit: str = "requests"):
        self.total, self.of_one, self._unit = total, of_one or -(-total // 2), unit
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many are."""
        with self._lock:
            return self._taken.total()

    def reserve(self, client: str, count: int = 1) -> Reservation:
        """Take places, and say later which of them are free again; raises as `acquire` does."""
        self.acquire(client, count)
        return Reservation(self, client, count)

    def acquire(self, client: str, count: int = 1) -> None:
        """Take places; "" is all callers without a name.

        Raises:
            Unavailable: there are not so many, or `client` has its share.
        """
        with self._lock:
            if self._taken.total() + count > self.total:
                raise Unavailable(
                    f"{self._taken.total()} {self._unit} are waiting or running; at most {self.total} may; try again later"
                )
            if self._taken[client] + count > self.of_one:
                raise Unavailable(
                    f"{self._taken[client]} {self._unit} of {described(client)} are waiting or running; at most "
                    f"{self.of_one} of one client may; try again later"
                )
            self._taken[client] += count

    def release(self, client: str, count: int = 1) -> None:
        """Give places back."""
        with self._lock:
            self._taken[client] -= count
            if not self._taken[client]:
                del self._taken[client]


class Reservation:
    """Places of one client that are given back once, all together or some at a time; used by one thread at a time."""

    def __init__(self, admission: AdmissionController, client: str, count: int):
        self._admission, self._client, self._count = admission, client, count

    def release(self, count: int | None = None) -> None:
        """Give back so many places, or all that are left; where none is, nothing happens."""
        count = self._count if count is None else min(count, self._count)
        self._count -= count
        if count:
            self._admission.release(self._client, count)

    def transfer(self) -> Reservation:
        """Hand all that are left to somebody else, who then gives them back."""
        other = Reservation(self._admission, self._client, self._count)
        self._count = 0
        return other


def described(client: str) -> str:
    """A client, for a message."""
    return f"client {client[:80]!r}" if client else "callers without a name"


class FairQueue(Generic[Item]):
    """First in, first out for each client; the clients that wait take turns. Safe to use from many threads.

    Args:
        at_once: items of one client that may be in work; more wait, though a thread may be free.
    """

    def __init__(self, at_once: int):
        self._at_once = at_once
        self._waiting: dict[str, deque[Item]] = {}
        self._in_work: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, client: str, item: Item) -> None:
        """Let `item` wait."""
        with self._changed:
            self._waiting.setdefault(client, deque()).append(item)
            self._changed.notify()

    def get(self) -> tuple[str, Item] | None:
        """Wait for the next item; None once the queue is closed and empty. Who takes one calls `done` after it."""
        with self._changed:
            self._changed.wait_for(lambda: self._next() is not None or (self._closed and not self._waiting))
            client = self._next()
            if client is None:
                return None
            items = self._waiting.pop(client)
            item = items.popleft()
            if items:
                self._waiting[client] = items  # At the end: dicts keep their order.
            self._in_work[client] += 1
            return client, item

    def done(self, client: str) -> None:
        """An item of `client` is no longer in work."""
        with self._changed:
            self._in_work[client] -= 1
            self._in_work += Counter()  # Drops zeros, so that names do not pile up.
            if self._waiting:
                self._changed.notify()  # One more of `client` may go.

    def drop(self, is_unwanted: Callable[[Item], bool]) -> list[tuple[str, Item]]:
        """Take out of the queue what nobody wants any more."""
        dropped: list[tuple[str, Item]] = []
        with self._changed:
            for client, items in list(self._waiting.items()):
                unwanted = [item for item in items if is_unwanted(item)]
                dropped += [(client, item) for item in unwanted]
                kept = deque(item for item in items if item not in unwanted)
                if kept:
                    self._waiting[client] = kept
                else:
                    del self._waiting[client]
            if dropped:
                self._changed.notify_all()
        return dropped

    def close(self) -> None:
        """Let those who wait for an item go once none is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> str | None:
        """The client whose turn it is, of those that may have more in work."""
        return next((client for client in self._waiting if self._in_work[client] < self._at_once), None)
