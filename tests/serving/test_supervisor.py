"""What the supervisor does where Triton cannot be started; `test_process` shows it at work on a real one."""

from __future__ import annotations

import threading

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
