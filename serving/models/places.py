"""Places for requests, so many in all and so many for one client; and a queue in which clients take turns.

A client is who says so in the header `reverie-client`, which a proxy in front should set; those who say nothing share
the places without a limit of their own, and one turn. Knows nothing about Triton.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from serving.errors import Unavailable

Item = TypeVar("Item")


class Places:
    """Counts the requests that are waiting or running; safe to use from many threads.

    Args:
        total: of all clients together.
        of_one: of one named client; by default half of all.
    """

    def __init__(self, total: int, of_one: int = 0):
        self.total, self.of_one = total, of_one or -(-total // 2)
        self._taken: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many are."""
        with self._lock:
            return self._taken.total()

    def take(self, client: str) -> None:
        """Take a place; "" is nobody in particular.

        Raises:
            Unavailable: there is none, or `client` has its share.
        """
        with self._lock:
            if self._taken.total() >= self.total:
                raise Unavailable(f"{self.total} requests are waiting or running; no more may; try again later")
            if client and self._taken[client] >= self.of_one:
                raise Unavailable(
                    f"{self.of_one} requests of client {client[:80]!r} are waiting or running; no more of one client "
                    "may; try again later"
                )
            self._taken[client] += 1

    def free(self, client: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


class TurnQueue(Generic[Item]):
    """First in, first out for each client; the clients that wait take turns. Safe to use from many threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._lock = threading.Lock()

    def put(self, client: str, item: Item) -> None:
        """Let `item` wait."""
        with self._lock:
            self._waiting.setdefault(client, deque()).append(item)

    def get(self) -> Item:
        """The next item.

        Raises:
            LookupError: nothing waits.
        """
        with self._lock:
            if not self._waiting:
                raise LookupError("nothing waits")
            client, items = next(iter(self._waiting.items()))
            item = items.popleft()
            del self._waiting[client]
            if items:
                self._waiting[client] = items  # At the end: dicts keep their order.
            return item
