"""What the supervisor does where Triton cannot be started; `test_process` shows it at work on a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from serving.triton import supervisor
from serving.triton.server import ServerError


class Unstartable:
    """A server that has ended, and that fails to start a given number of times."""

    def __init__(self, failures: int):
        self.failures, self.starts, self.pid = failures, 0, 1
        self.ended = True

    def poll(self):
        return 1 if self.pid and self.ended else None

    def stop(self):
        self.pid = None

    def start(self):
        self.starts += 1
        if self.starts <= self.failures:
            raise ServerError("the port is taken")
        self.pid, self.ended = 1, False


def test_a_start_that_fails_is_tried_again(monkeypatch):
    monkeypatch.setattr(supervisor, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.001)
    monkeypatch.setattr(supervisor, "model_processes", lambda pid: iter(()))
    server, stop, said = Unstartable(failures=3), threading.Event(), []

    def say(line: str) -> None:
        said.append(line)
        if "ready again" in line:
            stop.set()

    supervisor.supervise(server, stop, say, on_watching=lambda: None)
    assert server.starts == 4
    assert sum("the port is taken" in line for line in said) == 3


def test_after_many_dead_processes_triton_is_started_again_for_what_it_keeps_of_them(monkeypatch):
    model = supervisor.ModelVersion("stylize", "1")
    looks = iter(range(1_000_000))
    monkeypatch.setattr(supervisor, "_LOOK_EVERY_S", 0.0001)
    monkeypatch.setattr(supervisor, "model_processes", lambda pid: iter([model] if next(looks) % 2 == 0 else []))
    monkeypatch.setattr(supervisor, "_instances", lambda *_: 1)
    monkeypatch.setattr(supervisor, "_is_ready", lambda *_: True)
    reloaded: list[str] = []
    monkeypatch.setattr(supervisor, "_reload", lambda server, name, say: reloaded.append(name))
    server, stop = Unstartable(failures=0), threading.Event()
    server.ended = False
    supervisor.supervise(server, stop, lambda line: stop.set() if "ready again" in line else None, lambda: None)
    assert reloaded == ["stylize"] * 16
    assert server.starts == 1


@pytest.fixture
def two_processes():
    """Two children that sleep."""
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield children
    for child in children:
        child.kill()
        child.wait()


def stop(process):
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def test_a_model_s_process_that_stands_still_is_ended_at_once_and_one_that_works_is_not(two_processes):
    standing, working = two_processes
    stop(standing)
    said: list[str] = []
    supervisor.Stopped().end(os.getpid(), said.append)
    assert said == [f"process {standing.pid} has been stopped by a signal; ending it"]
    assert standing.wait(10) == -signal.SIGKILL
    assert working.poll() is None


def test_a_server_that_stands_still_is_ended_after_a_while_and_one_that_goes_on_is_not(two_processes, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    standing, resumed = two_processes
    said: list[str] = []
    watches = {process: supervisor.Stopped() for process in two_processes}
    for process, stopped in watches.items():
        stop(process)
        stopped.end(process.pid, said.append)
    resumed.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, resumed.pid, os.WCONTINUED)
    now[0] = supervisor._STOPPED_S
    for process, stopped in watches.items():
        stopped.end(process.pid, said.append)
    assert said == [f"process {standing.pid} has been stopped by a signal; ending it"]
    assert standing.wait(10) == -signal.SIGKILL
    assert resumed.poll() is None
