"""The open loop: one pacer greenlet sends every arrival at its time, each in a greenlet of its own.

Needs gevent, not locust: whoever calls a server through it patches blocking calls first (see `users.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import gevent
import gevent.pool

from loadtests.arrivals import Arrival
from loadtests.calls import Call, dropped_call

Send = Callable[[Arrival, float], Call]
"""Sends one arrival, due at a time of `time.perf_counter`, and waits for its answer."""


def send_on_schedule(
    arrivals: Sequence[Arrival],
    send: Send,
    max_in_flight: int = 1000,
    drain_s: float = 70.0,
    on_call: Callable[[Call], None] = lambda call: None,
) -> list[Call]:
    """Send `arrivals` at their times, whatever becomes of the earlier ones, and collect the calls.

    Args:
        arrivals: in order of time.
        max_in_flight: an arrival that finds this many unanswered is dropped: a call that was never sent.
        drain_s: how long after the last arrival answers are waited for; what is missing then is a failed call.
        on_call: told every call as it ends.

    Returns:
        A call for every arrival, times counted from the load's beginning, in order of their schedule.
    """
    calls: list[Call] = []
    waiting: dict[int, Arrival] = {}
    pool = gevent.pool.Pool()
    began = time.perf_counter()

    def keep(call: Call) -> None:
        calls.append(call)
        on_call(call)

    def send_one(number: int, arrival: Arrival) -> None:
        waiting[number] = arrival
        keep(send(arrival, began + arrival.at_s).since(began))
        del waiting[number]

    for number, arrival in enumerate(arrivals):
        # Sleeps even when late, so that answers are not left waiting for the sender.
        gevent.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
        if len(pool) >= max_in_flight:
            keep(dropped_call(arrival.endpoint, arrival.at_s, arrival.seed))
        else:
            pool.spawn(send_one, number, arrival)
    pool.join(timeout=drain_s)
    ended = time.perf_counter() - began
    lost = [_unanswered(arrival, ended) for arrival in waiting.values()]
    pool.kill(block=False)
    return sorted([*calls, *lost], key=lambda c: c.scheduled_s)


def _unanswered(arrival: Arrival, now: float) -> Call:
    lost = "LOST: no answer when the load test ended"
    return Call(arrival.endpoint, arrival.at_s, arrival.at_s, now, error=lost, seed=arrival.seed)
