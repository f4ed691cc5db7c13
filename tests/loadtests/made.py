"""Calls as a load test would record them, for tests of what is computed from them."""

from __future__ import annotations

from loadtests.calls import Call

REFUSED = "UNAVAILABLE: the queue is full"
BROKEN = "INTERNAL: broken"


def call(at_s: float = 0.0, ms: float = 100.0, endpoint: str = "stylize", lag_ms: float = 0.0, error: str = "") -> Call:
    """A call due at `at_s` that ended `ms` later."""
    return Call(endpoint, at_s, at_s + lag_ms / 1000, at_s + ms / 1000, error=error)


def steady(rate: float, start_s: float, seconds: float, ms: float, error: str = "") -> list[Call]:
    """`rate` calls a second, all alike."""
    return [call(start_s + i / rate, ms, error=error) for i in range(int(rate * seconds))]
