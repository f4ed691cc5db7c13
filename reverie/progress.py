"""What a person sees of work outside the steps of a training: whatever takes over two seconds shows progress, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console

SILENT_S = 2.0
"""Shorter work says nothing."""
EVERY_S = 5.0

Item = TypeVar("Item")


def say(line: str) -> None:
    """Tell the person who waits; stdout is for results."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def followed(
    items: Iterable[Item], description: str, total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Pass on `items`, and tell how many of `total` are done: after two seconds, and then every five."""
    due, done = clock() + SILENT_S, 0
    for done, item in enumerate(items):
        if clock() >= due:
            say(f"{description}: {done} of {total}")
            due = clock() + EVERY_S
        yield item
