"""The pacer and the generator's own health; against senders made for the purpose, no server."""

from __future__ import annotations

import subprocess
import sys
import time

import gevent
import pytest

from loadtests.arrivals import Arrival, Phase, schedule
from loadtests.calls import Call, Outcome
from loadtests.generator import GeneratorHealth, Limits
from loadtests.open_loop import send_on_schedule
from tests.loadtests.made import call
from tests.loadtests.paced_server import paced_server


def answer_after(seconds: float):
    """A sender whose server takes `seconds`."""

    def send(arrival: Arrival, due: float) -> Call:
        started = time.perf_counter()
        gevent.sleep(seconds)
        return Call(arrival.endpoint, due, started, time.perf_counter())

    return send


def arrivals(number: int, gap_s: float = 0.005) -> list[Arrival]:
    return [Arrival(i * gap_s, "score", i) for i in range(number)]


def test_every_arrival_is_sent_though_no_earlier_one_was_answered():
    calls = send_on_schedule(arrivals(40), answer_after(0.4))
    assert [c.scheduled_s for c in calls] == pytest.approx([a.at_s for a in arrivals(40)])
    assert max(c.started_s for c in calls) < min(c.finished_s for c in calls)


def test_a_stalled_sender_cannot_hide_the_wait():
    """The first send blocks everything; the others start late, and their latency says so."""

    def block(arrival: Arrival, due: float) -> Call:
        started = time.perf_counter()
        if arrival.seed == 0:
            time.sleep(0.3)
        return Call(arrival.endpoint, due, started, time.perf_counter())

    calls = send_on_schedule(arrivals(10, 0.01), block)
    assert all(c.milliseconds > 150 for c in calls)
    health = GeneratorHealth.of(calls, cpu_share=0.1)
    assert health.late == 9
    assert health.bottlenecks(Limits(lag_p99_ms=100))


def test_an_arrival_that_finds_too_many_in_flight_is_dropped_and_counted():
    calls = send_on_schedule(arrivals(20, 0.001), answer_after(0.3), max_in_flight=5)
    assert sum(c.outcome is Outcome.DROPPED for c in calls) == 15
    assert GeneratorHealth.of(calls, 0.1).dropped == 15


def test_a_request_without_an_answer_when_the_test_ends_is_a_failed_call():
    calls = send_on_schedule(arrivals(2), answer_after(60), drain_s=0.05)
    assert [c.outcome for c in calls] == [Outcome.FAILED] * 2
    assert all(c.error.startswith("LOST") for c in calls)


def test_every_call_is_told_as_it_ends():
    told: list[Call] = []
    planned = schedule([Phase(200, 0.1)], {"score": 1}, "constant")
    calls = send_on_schedule(planned, answer_after(0.0), on_call=told.append)
    assert sorted(told, key=lambda c: c.scheduled_s) == calls


def test_a_busy_or_late_generator_makes_a_run_invalid():
    calls = [call(lag_ms=50.0)] * 100
    assert GeneratorHealth.of(calls, cpu_share=0.5).bottlenecks(Limits(0.8, 100)) == []
    assert GeneratorHealth.of(calls, cpu_share=0.9).bottlenecks(Limits(0.8, 100)) == [
        "the generator used 90% of a core, at most 80% may"
    ]
    assert GeneratorHealth.of(calls, cpu_share=0.5).bottlenecks(Limits(0.8, 20)) == [
        "schedule lag has a p99 of 50 ms, at most 20 ms may"
    ]


def test_a_closed_loop_has_no_lag():
    assert GeneratorHealth.of([], 0.2).bottlenecks(Limits()) == []


@pytest.mark.slow
def test_a_short_stream_does_not_wait_for_thirty_long_ones():
    with paced_server(0.0) as address:
        command = [sys.executable, "-m", "tests.loadtests.many_streams", address]
        seconds = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert seconds < 1
