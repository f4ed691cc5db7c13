"""Each alert fires on the metrics of a real server that was brought into its state, and none on those of a healthy one.

The scrapes are real and taken one after the other; that a minute lies between them is declared, so that `for: 5m` takes
no five minutes. There is no GPU here: only that rule is asked about lines written by hand.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from reverie_client import Client, ReverieError

from registry import golden, publishing
from registry.repository import Repository
from serving.triton import processes
from serving.triton.server import TritonServer
from serving.triton.supervisor import Supervisor, model_version
from tests.alert_rules import FILE, Firing, check_with_promtool, firing, read_rules
from tests.export import tiny
from tests.promql import Recording, evaluate

PROJECT = Path(__file__).resolve().parents[1]
PIXELS = np.full((1, 32, 32, 3), 100, np.uint8)
WEIGHTS = np.ones((1, 1), np.float32)
BUSY_SECONDS, SLOW_SECONDS = 0.4, 1.0
AGAIN_AFTER = 4
"""Scrapes: what happened once is within a window of five minutes for so long."""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[TritonServer]:
    """Two versions of `style`: the one that `stylize` calls fails wide pictures, and the other is slow."""
    repository = tmp_path_factory.mktemp("alerts") / "model_repository"
    shutil.copytree(PROJECT / "model_repository" / "stylize", repository / "stylize")
    second = rounds_in_a_second(tmp_path_factory.mktemp("timed"))
    faults = {
        "stable": tiny.Fault(round(BUSY_SECONDS * second), widest=300),
        "slow": tiny.Fault(rounds=round(SLOW_SECONDS * second)),
    }
    for label, fault in faults.items():
        staged = tiny.stage(Repository(repository), fault=fault)
        publishing.publish(staged, Repository(repository), label=label)
    with TritonServer(repository, log=repository.parent / "triton.log") as running:
        yield running


def rounds_in_a_second(folder: Path, rounds: int = 40_000) -> float:
    """Of `tiny.Fault`, at the best: what else runs now makes nothing too fast later."""
    file = folder / "timed.onnx"
    file.write_bytes(tiny.graph(0, fault=tiny.Fault(rounds)).SerializeToString())

    def seconds() -> float:
        began = time.perf_counter()
        golden.run(file, {"image": PIXELS, "style_weights": WEIGHTS})
        return time.perf_counter() - began

    return rounds / min(seconds() for _ in range(8))


class Operator:
    """Calls a server, and records what its metrics say before and after."""

    def __init__(self, running: TritonServer, photo: bytes):
        self.running, self._photo = running, photo
        self.client = Client(running.address.grpc, retry=None)

    def record(self, acts: Sequence[Callable[[], object] | None]) -> Recording:
        """Scrape, then do each and scrape again; None does nothing."""
        recording = Recording()
        for minute, act in enumerate([None, *acts]):
            if act:
                act()
            recording.add(60.0 * minute, self._scrape())
        return recording

    def _scrape(self) -> str | None:
        try:
            with urllib.request.urlopen(self.running.address.metrics, timeout=10) as reply:
                return reply.read().decode()
        except urllib.error.URLError:
            return None

    def paint(self, label: str = "stable") -> None:
        self.client.infer("style", {"image": PIXELS, "style_weights": WEIGHTS}, label=label)

    def wait_long(self) -> None:
        """Call the slow version so often at once, as it takes one after the other, that the last waits for over two seconds."""
        began = time.perf_counter()
        self.paint("slow")
        calls = math.ceil(2.6 / (time.perf_counter() - began))
        with ThreadPoolExecutor(calls) as pool:
            list(pool.map(self.paint, ["slow"] * calls))

    def fail(self) -> None:
        with pytest.raises(ReverieError, match="INTERNAL"):
            self.client.stylize(self._photo, size=400)

    def behave(self) -> None:
        """What healthy servers see: answers, and callers' mistakes."""
        self.client.stylize(self._photo, size=64)
        for _ in range(3):
            with pytest.raises(ReverieError, match="INVALID_ARGUMENT"):
                self.client.stylize(b"no picture")

    def burst(self, calls: int = 12) -> int:
        """Call `stylize` so often at once, and return how many calls were refused."""

        def is_refused(_: int) -> bool:
            try:
                self.client.stylize(self._photo, size=64)
            except ReverieError as error:
                assert error.code.name == "UNAVAILABLE"
                return True
            return False

        with ThreadPoolExecutor(calls) as pool:
            return sum(pool.map(is_refused, range(calls)))

    def overload(self) -> None:
        assert self.burst(calls=24) > 0


@pytest.fixture(scope="module")
def operator(served, photo) -> Iterator[Operator]:
    operator = Operator(served, photo)
    yield operator
    operator.client.close()


@pytest.fixture(scope="module")
def failures(operator) -> Recording:
    """Of a version that answers some pictures with errors."""
    return operator.record([operator.fail] * 7)


def now_and_then(act: Callable[[], object], times: int) -> list[Callable[[], object] | None]:
    """Often enough that every window of five minutes sees it."""
    return [act, *[None] * (AGAIN_AFTER - 1)] * times


def fired(recording: Recording, folder: Path) -> set[Firing]:
    """What fires; where Prometheus' promtool is installed, it is asked too."""
    found = firing(recording)
    if promtool := shutil.which("promtool"):
        check_with_promtool(promtool, recording, found, folder)
    return found


def names(alerts: set[Firing]) -> set[str]:
    return {alert.alert for alert in alerts}


def test_a_healthy_server_is_silent_also_about_its_callers_mistakes(operator, tmp_path):
    recording = operator.record(now_and_then(operator.behave, 4))
    assert evaluate('rate(reverie_requests_total{status="OK"}[5m]) > 0', recording, 60)
    assert fired(recording, tmp_path) == set()


def test_a_version_that_answers_with_errors_is_failing_and_the_model_is_named(failures, tmp_path):
    found = fired(failures, tmp_path)
    assert names(found) == {"ReverieFailing"}
    assert {alert["model"] for alert in found} == {"stylize"}


def test_a_version_whose_answers_take_longer_than_two_seconds_is_slow(operator, tmp_path):
    found = fired(operator.record(now_and_then(operator.wait_long, 3)), tmp_path)
    assert {(alert.alert, alert["model"], alert["version"]) for alert in found} == {("ReverieSlow", "style", "2")}


def test_calls_that_wait_are_queueing(operator, tmp_path):
    found = fired(operator.record(now_and_then(operator.burst, 2)), tmp_path)
    assert {(alert.alert, alert["model"]) for alert in found} == {("ReverieQueueing", "stylize")}


def test_more_calls_than_there_are_places_for_are_shed(operator, tmp_path):
    found = fired(operator.record(now_and_then(operator.overload, 2)), tmp_path)
    assert ("ReverieShedding", "stylize") in {(alert.alert, alert["model"]) for alert in found}
    assert names(found) <= {"ReverieShedding", "ReverieQueueing"}


def test_a_process_that_ends_again_and_again_is_restarting_and_once_is_not(operator, tmp_path):
    told: list[str] = []
    watcher = Supervisor(operator.running, threading.Event(), told.append)
    watcher.begin()

    def end() -> None:
        os.kill(process_of(operator.running, "stylize"), signal.SIGKILL)
        seen = len(told)
        while not any("loading it again" in line for line in told[seen:]):
            watcher.look()
            time.sleep(0.05)

    assert fired(operator.record([None, end, *[None] * 30]), tmp_path) == set()
    assert names(fired(operator.record([None, end, None, end, None, end]), tmp_path)) == {"ReverieRestarting"}


def process_of(running: TritonServer, model: str) -> int:
    assert running.pid is not None
    found = ((p.pid, model_version(p)) for p in processes.children(running.pid))
    return next(pid for pid, version in found if version and version.name == model)


def test_a_server_that_has_ended_is_down(operator, tmp_path):
    try:
        found = fired(operator.record([None, operator.running.stop, None]), tmp_path)
    finally:
        operator.running.start()
    assert names(found) == {"ReverieDown"}


@pytest.mark.parametrize(("used", "expected"), [(79e9, {"ReverieGpuMemory"}), (60e9, set())])
def test_a_full_gpu_is_told_of_by_lines_as_triton_writes_them(used, expected, tmp_path):
    recording = Recording()
    for minute in range(12):
        lines = (
            f'nv_gpu_memory_{n}_bytes{{gpu_uuid="GPU-1"}} {value}' for n, value in (("used", used), ("total", 80e9))
        )
        recording.add(60.0 * minute, "\n".join(lines) + "\n")
    assert names(fired(recording, tmp_path)) == expected


def test_every_rule_is_fired_by_a_test_of_this_file():
    here = Path(__file__).read_text()
    assert all(f'"{rule.alert}"' in here for rule in read_rules())


@pytest.mark.parametrize(
    ("written", "broken"),
    [("INTERNAL|", "INTERN|"), ("0.01 *", "10 *"), ("requests_total{status=~", "request_total{status=~")],
)
def test_a_rule_that_is_broken_does_not_fire(failures, written, broken):
    text = FILE.read_text()
    assert written in text
    assert names(firing(failures)) == {"ReverieFailing"}
    assert firing(failures, read_rules(text.replace(written, broken))) == set()


def test_what_the_evaluator_does_not_know_is_refused():
    recording = Recording()
    recording.add(0.0, "")
    for expression in ("avg(up)", "sum without (job) (up)", "up == on (job) up", "1", "rat(up)", "delta(up[5m])"):
        with pytest.raises((ValueError, KeyError)):
            evaluate(expression, recording, 0.0)


def test_a_counter_s_increase_is_prometheus_own():
    """Extrapolated to the window's edges, and over a reset."""
    recording = Recording({})
    for minute, value in enumerate((10, 12, 3, 6)):
        recording.add(60.0 * minute, f"# TYPE a_total counter\na_total {value}\n")
    assert evaluate("increase(a_total[4m])", recording, 180.0)[frozenset()] == pytest.approx(8 * 240 / 180)
    assert evaluate("increase(a_total[10m])", recording, 180.0)[frozenset()] == pytest.approx(8 * 210 / 180)
    assert evaluate("rate(a_total[1m])", recording, 180.0) == {}
    assert evaluate("a_total > 5", recording, 180.0) == {frozenset(): 6}
