"""What `/metrics` says beside what callers saw, on a real server and of its parts."""

from __future__ import annotations

import contextlib
import http.client
import math
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from reverie_client import ReverieError, headers

from reverie.prometheus import Snapshot
from serving.telemetry import definitions
from serving.telemetry.batched_histogram import BatchedHistogram
from serving.telemetry.model_metrics import ModelMetrics
from serving.telemetry.values_folder import ValuesFolder
from serving.triton.server import TritonServer

# Parts


def test_a_batched_histogram_counts_what_prometheus_own_counts():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = BatchedHistogram("seconds", "What it is.", ("model",), (0.125, 1.0, 2.5), ours).labels("m")
    plain = Histogram("seconds", "What it is.", ("model",), buckets=(0.125, 1.0, 2.5), registry=theirs).labels("m")
    for value in (0.0625, 0.125, 1.0, 2.5, 2.75, 100.0) * 30:
        batched.observe(value)
        plain.observe(value)
    created = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == created


def test_no_observation_is_lost_between_threads():
    histogram = BatchedHistogram("seconds", "What it is.", (), (1.0,), CollectorRegistry()).labels()
    threads = [threading.Thread(target=lambda: [histogram.observe(0.5) for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buckets, total = histogram.read()
    assert buckets[-1][1] == 20_000
    assert total == pytest.approx(10_000)


PROCESS = """
import sys
from serving.telemetry.model_metrics import ModelMetrics
metrics = ModelMetrics("m", "1")
for status in ("OK", "OK", "INTERNAL"):
    request = metrics.arrival()
    request.begin()
    request.message()
    request.finish(status)
metrics.arrival()
print("counted", flush=True)
sys.stdin.read()
"""


@dataclass
class CountingProcess:
    """A process that has counted two OK and one INTERNAL, and has one request waiting."""

    folder: Path
    process: subprocess.Popen = field(init=False)

    def __enter__(self) -> CountingProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            env={definitions.FOLDER_VARIABLE: str(self.folder), "PYTHONPATH": ":".join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"counted\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def read(values: ValuesFolder) -> Snapshot:
    registry = CollectorRegistry()
    registry.register(values)
    return Snapshot.read(generate_latest(registry).decode())


def figures(values: ValuesFolder) -> tuple[dict[str, float], float, float]:
    """Requests by status, timed requests, and those that wait."""
    snapshot = read(values)
    return (
        {s: n for s, n in snapshot.by("status", "reverie_requests").items() if n},
        snapshot.total("reverie_request_seconds_count"),
        snapshot.total("reverie_in_flight", state="waiting"),
    )


def test_what_dead_processes_counted_stays_and_what_they_had_in_flight_does_not(tmp_path):
    values = ValuesFolder(tmp_path)
    with CountingProcess(tmp_path):
        assert figures(values) == ({"OK": 2, "INTERNAL": 1}, 2, 1)
    with CountingProcess(tmp_path):
        for _ in range(2):
            assert figures(values) == ({"OK": 4, "INTERNAL": 2}, 4, 1)
    for _ in range(2):
        assert figures(values) == ({"OK": 4, "INTERNAL": 2}, 4, 0)
    assert len(list(tmp_path.iterdir())) == 2  # However many have died.


def test_counts_go_on_in_another_folder(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    with CountingProcess(first):
        pass
    values = ValuesFolder(second)
    values.put_counts(ValuesFolder(first).take_counts())
    with CountingProcess(second):
        assert figures(values) == ({"OK": 4, "INTERNAL": 2}, 4, 1)


def test_a_quantile_of_the_buckets_is_within_a_seventh_of_the_true_one():
    metrics = ModelMetrics("quantiles", "1")
    times = [0.0105 * 1.02**i for i in range(300)]
    for seconds in times:
        metrics.request_seconds.observe(seconds)
    snapshot = Snapshot.read(generate_latest(definitions.REGISTRY).decode())
    for q in (0.5, 0.95, 0.99):
        found = snapshot.quantile(q, "reverie_request_seconds", model="quantiles")
        assert found == pytest.approx(times[int(q * len(times))], rel=1 / 7)


def test_nothing_observed_has_no_quantile():
    assert Snapshot.read("").quantile(0.95, "reverie_request_seconds") is None


def test_a_counter_that_was_reset_counts_from_zero():
    before, after = (
        Snapshot.read("# TYPE a_total counter\na_total 7\n"),
        Snapshot.read("# TYPE a_total counter\na_total 3\n"),
    )
    assert after.since(before).total("a") == 3
    assert before.since(after).total("a") == 4


def test_a_request_is_counted_once_however_often_it_ends():
    metrics = ModelMetrics("once", "1")
    request = metrics.arrival()
    request.begin()
    request.begin()
    for status in ("INTERNAL", "OK", "CANCELLED"):
        request.finish(status)
    snapshot = Snapshot.read(generate_latest(definitions.REGISTRY).decode())
    counted = {s: n for s, n in snapshot.by("status", "reverie_requests", model="once").items() if n}
    assert counted == {"INTERNAL": 1}
    assert snapshot.by("state", "reverie_in_flight", model="once") == {"waiting": 0, "running": 0}


@pytest.mark.parametrize("status", ["OK", "CANCELLED"])
def test_what_ends_after_its_deadline_is_counted_as_late(status):
    request = ModelMetrics("late", "1").arrival(timeout=0.0)
    assert request.is_late
    request.finish(status)
    assert request.status == "DEADLINE_EXCEEDED"


def test_a_late_mistake_is_still_a_mistake():
    request = ModelMetrics("late", "1").arrival(timeout=0.0)
    request.finish("INVALID_ARGUMENT")
    assert request.status == "INVALID_ARGUMENT"


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 1.5, 120.0, 86_400.0, 1e6, 1e12])
def test_a_timeout_survives_its_header(seconds):
    text = headers.write_timeout(seconds)
    assert len(text) <= 9
    assert headers.read_timeout(text) == pytest.approx(min(seconds, 99_999_999), abs=0.001, rel=1e-6)


@pytest.mark.parametrize("text", ["", "5", "S", "5s", "-5S", "+5S", "1.5S", "123456789m", "\u0665S", "5 S"])
def test_what_is_no_timeout_is_none(text):
    assert headers.read_timeout(text) is None


def test_grpc_s_own_timeouts_are_read():
    assert [headers.read_timeout(t) for t in ("2H", "3M", "4S", "5m", "6u", "7n")] == pytest.approx(
        [7200, 180, 4, 0.005, 6e-6, 7e-9]
    )


# On a server


def fetch(server: TritonServer) -> Snapshot:
    with urllib.request.urlopen(server.address.metrics, timeout=10) as reply:
        return Snapshot.read(reply.read().decode())


def settled(server: TritonServer, before: Snapshot, model: str, requests: int) -> Snapshot:
    """What was added since, once so many requests of a model have ended."""
    end = time.monotonic() + 30
    while True:
        added = fetch(server).since(before)
        if added.total("reverie_requests", model=model) >= requests or time.monotonic() > end:
            return added
        time.sleep(0.05)


def outcome(call) -> str:
    try:
        call()
    except ReverieError as error:
        return error.code.name
    return "OK"


def statuses(added: Snapshot, model: str) -> dict[str, int]:
    return {s: int(n) for s, n in added.by("status", "reverie_requests", model=model).items() if n}


def test_streams_are_counted_as_their_callers_saw_them(server, client):
    def text(**parameters):
        return list(client.generate("The film", max_tokens=parameters.pop("max_tokens", 8), **parameters))

    def leave():
        with client.generate("The film", max_tokens=2000, ignore_eos=True) as stream:
            next(stream)

    before = fetch(server)
    seen = Counter([outcome(text) for _ in range(5)])
    seen += Counter([outcome(lambda: text(stream=False, n=3))])
    seen += Counter([outcome(lambda: text(temperature=-1.0)) for _ in range(3)])
    leave()
    seen["CANCELLED"] += 1
    late = [outcome(lambda: text(max_tokens=2000, n=64, ignore_eos=True, timeout=0.3)) for _ in range(2)]
    assert set(late) == {"DEADLINE_EXCEEDED"}
    seen += Counter(late)
    added = settled(server, before, "generate", seen.total())
    assert statuses(added, "generate") == dict(seen)
    assert added.total("reverie_first_message_seconds_count", model="generate") >= 6
    assert fetch(server).by("state", "reverie_in_flight", model="generate") == {"waiting": 0, "running": 0}


def test_unary_calls_are_counted_as_their_callers_saw_them_refusals_included(server, client, photo):
    """More at once than may wait; of one client, so the rest is refused."""
    before = fetch(server)
    with ThreadPoolExecutor(40) as pool:
        calls = [lambda: client.stylize(photo, size=256)] * 40
        seen = Counter(pool.map(outcome, calls))
    seen += Counter([outcome(lambda: client.stylize(photo, style="nobody")) for _ in range(2)])
    seen += Counter([outcome(lambda: client.stylize(b"no picture"))])
    assert seen["UNAVAILABLE"] > 0
    assert seen["INVALID_ARGUMENT"] == 3
    added = settled(server, before, "stylize", seen.total())
    assert statuses(added, "stylize") == dict(seen)
    assert statuses(added, "style")["OK"] == seen["OK"]


def test_the_server_s_percentiles_are_those_that_a_caller_measures(server, client, photo):
    """In one of three tries: where other work holds up the caller, it measures more than the server."""
    assert any(_percentiles_agree(server, client, photo) for _ in range(3))


def _percentiles_agree(server, client, photo) -> bool:
    before, took = fetch(server), []
    for size in [256] * 19 + [768] * 2:
        started = time.perf_counter()
        client.stylize(photo, size=size)
        took.append(time.perf_counter() - started)
    added = settled(server, before, "stylize", len(took))
    took.sort()
    found = {q: added.quantile(q, "reverie_request_seconds", model="stylize") for q in (0.5, 0.95)}
    return found == pytest.approx({q: took[math.ceil(q * len(took)) - 1] for q in found}, rel=0.15)


def test_metrics_are_served_nowhere_else_and_nothing_else_is_served(server):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(server.address.metrics.replace("/metrics", "/secrets"))


def test_callers_who_say_nothing_keep_nobody_from_the_metrics_for_long(server):
    """They take a bounded number of threads, and each is sent away after a while, though it stays connected."""
    threads = threading.active_count()
    silent = [socket.create_connection((server.address.metrics_host, server.address.metrics_port)) for _ in range(40)]
    try:
        end = time.monotonic() + 40
        while True:
            assert threading.active_count() <= threads + 17
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert fetch(server).total("reverie_requests") > 0
                break
            assert time.monotonic() < end, "the metrics did not come back"
            time.sleep(0.1)
    finally:
        for connection in silent:
            connection.close()


def test_the_documentation_lists_every_metric_as_the_code_defines_it():
    text = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    assert text.endswith("\n## All of ours\n\n" + definitions.table())


def test_every_metric_that_is_served_is_defined(server):
    with urllib.request.urlopen(server.address.metrics) as reply:
        served = set(re.findall(r"^# TYPE (reverie_\w+)", reply.read().decode(), re.MULTILINE))
    assert served == {d.name for d in definitions.DEFINITIONS}
