"""What the benchmarks share: telling how far they are, and timing one call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def say(text: str) -> None:
    """Tell the person who waits; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def seconds_of(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
