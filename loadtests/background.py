"""Something done again and again beside a load, in a greenlet of its own: polling, progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import gevent


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` at once, every `seconds` while the context lasts, and once more at its end."""

    def repeat() -> None:
        while True:
            act()
            gevent.sleep(seconds)

    greenlet = gevent.spawn(repeat)
    try:
        yield
        greenlet.kill()
        act()
    finally:
        greenlet.kill()
