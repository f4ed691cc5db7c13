"""What the supervisor does where Triton, or a model, cannot be started; `test_process` shows it at work on a real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from subprocess import SubprocessError

import pytest

from serving.triton import hung_processes, supervisor
from serving.triton.errors import ServerError

NO_PROCESS = 2**22 + 1
"""A pid above the highest that Linux gives, 2**22."""


class Scripted:
    """A server whose starts, loads and list of models go as a test says.

    Args:
        starts: what each start raises; None, and every one after the last, succeeds.
        loads: likewise each load of a model.
    """

    def __init__(self, repository: Path, starts: Iterable[Exception | None] = (), loads: Iterable[str] = ()):
        self.repository, self._starts, self._loads = repository, iter(starts), iter(loads)
        self.pid: int | None = NO_PROCESS
        self.ended = False
        self.started: list[bool] = []
        self.loaded: list[str] = []
        self.states: dict[tuple[str, str], dict[str, str]] = {}
        self.lists_models = True
        self.instances = 0

    def poll(self):
        return 1 if self.pid and self.ended else None

    def stop(self):
        self.pid = None

    def start(self, needs_every_model=True):
        self.started.append(needs_every_model)
        if failure := next(self._starts, None):
            raise failure
        self.pid, self.ended = NO_PROCESS, False

    def restore_folder(self):
        pass

    def control(self, path, timeout, data=None):
        if path == "repository/index":
            if not self.lists_models:
                raise TimeoutError
            return [{"name": n, "version": v, **state} for (n, v), state in self.states.items()]
        if path.endswith("/config"):
            return {"instance_group": [{"count": self.instances, "gpus": []}]}
        if path.endswith("/load"):
            self.loaded.append(path.split("/")[2])
            if failure := next(self._loads, ""):
                raise OSError(failure)
        return {}


READY, UNLOADED = {"state": "READY"}, {"state": "UNAVAILABLE", "reason": "unloaded"}
FAILED = {"state": "UNAVAILABLE", "reason": "Internal: out of memory"}


@pytest.fixture
def repository(tmp_path) -> Path:
    """Of `stylize`, whose configuration names no version, and `style`, whose configuration names 5."""
    (tmp_path / "stylize" / "1").mkdir(parents=True)
    (tmp_path / "stylize" / "config.pbtxt").write_text('name: "stylize"')
    for version in (5, 6):
        (tmp_path / "style" / str(version)).mkdir(parents=True)
    (tmp_path / "style" / "config.pbtxt").write_text("version_policy { specific { versions: [ 5 ] } }")
    return tmp_path


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The supervisor's."""
    clock = Clock()
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: clock.now)
    return clock


class Clock:
    """Stands until it is told to go on."""

    now = 0.0

    def watch(self, watcher: supervisor.Supervisor, seconds: float) -> None:
        """Have the supervisor look every half second."""
        for _ in range(round(2 * seconds)):
            self.now += 0.5
            watcher.look()


class NoPause(threading.Event):
    """Waiting for it takes no time."""

    def wait(self, timeout=None):
        return self.is_set()


def watching(server: Scripted) -> tuple[supervisor.Supervisor, list[str]]:
    said: list[str] = []
    watcher = supervisor.Supervisor(server, NoPause(), said.append)
    watcher.begin()
    return watcher, said


@pytest.mark.parametrize(
    "failure", [ServerError("the port is taken"), OSError(28, "No space left on device"), SubprocessError("no fork")]
)
def test_a_start_that_fails_is_said_and_tried_again(repository, clock, failure):
    server = Scripted(repository, starts=[failure] * 3)
    watcher, said = watching(server)
    server.ended = True
    for _ in range(4):
        watcher.look()
    # One model that does not load must not keep the others from coming back.
    assert server.started == [False] * 4
    assert sum(str(failure) in line for line in said) == 3
    assert "Triton is ready again" in said[-1]


def test_pauses_between_starts_grow_and_have_an_end():
    pauses = [supervisor.pause_after(failures) for failures in range(1, 2000)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == 30


def test_an_error_while_looking_is_said_once_and_ends_nothing(repository, clock, monkeypatch):
    def cannot_look(pid):
        raise OSError(24, "Too many open files")

    watcher, said = watching(Scripted(repository))
    monkeypatch.setattr(supervisor, "model_processes", cannot_look)
    clock.watch(watcher, 5)
    assert len(said) == 1
    assert "Too many open files" in said[0]


def test_a_listener_who_cannot_hear_any_more_ends_nothing(repository, clock):
    def broken_pipe(line):
        raise BrokenPipeError

    server = Scripted(repository)
    watcher = supervisor.Supervisor(server, NoPause(), broken_pipe)
    watcher.begin()
    server.ended = True
    watcher.look()
    assert server.started == [False]


def test_after_many_dead_processes_triton_is_started_again_for_what_it_keeps_of_them(repository, clock, monkeypatch):
    model = supervisor.ModelVersion("stylize", "1")
    server = Scripted(repository)
    server.instances = 1
    watcher, _ = watching(server)
    for _ in range(16):
        monkeypatch.setattr(supervisor, "model_processes", lambda pid: iter([model]))
        watcher.look()
        monkeypatch.setattr(supervisor, "model_processes", lambda pid: iter(()))
        watcher.look()
    assert server.loaded == ["stylize"] * 16
    assert server.started == []
    watcher.look()
    assert server.started == [False]


def test_a_process_that_ended_before_it_was_seen_is_missed_all_the_same(repository, clock, monkeypatch):
    server = Scripted(repository)
    server.instances = 1
    server.states = {("stylize", "1"): READY}
    watcher, _ = watching(server)
    watcher.look()
    assert server.loaded == ["stylize"]


def test_processes_are_looked_at_while_triton_does_not_list_its_models(repository, clock, monkeypatch):
    server = Scripted(repository)
    server.instances = 1
    server.states = {("stylize", "1"): READY}
    watcher, _ = watching(server)
    server.lists_models = False
    clock.watch(watcher, 3)
    assert server.loaded == ["stylize"]


def test_a_reload_that_failed_is_tried_with_growing_pauses_until_it_works(repository, clock, monkeypatch):
    server = Scripted(repository, loads=["no memory"] * 2)
    server.instances = 1
    server.states = {("stylize", "1"): READY}
    watcher, said = watching(server)
    watcher.look()  # Its process is not there.
    server.states = {("stylize", "1"): UNLOADED}
    assert server.loaded == ["stylize"]
    clock.watch(watcher, 1)
    assert server.loaded == ["stylize"] * 2
    clock.watch(watcher, 1.5)
    assert server.loaded == ["stylize"] * 2
    clock.watch(watcher, 0.5)
    assert server.loaded == ["stylize"] * 3
    assert said[-1] == "model stylize is served again"
    clock.watch(watcher, 60)
    assert server.loaded == ["stylize"] * 3
    assert server.started == []


def test_triton_is_started_again_once_for_a_model_that_does_not_load_and_then_the_model_alone_is_tried(
    repository, clock
):
    server = Scripted(repository, loads=["broken"] * 1000)
    server.states = {("stylize", "1"): READY}
    watcher, said = watching(server)
    server.states = {("stylize", "1"): FAILED}
    clock.watch(watcher, 600)
    assert server.started == [False]
    assert 15 <= len(server.loaded) <= 25  # Every 30 s, in the end.
    assert sum("starting Triton again" in line for line in said) == 1


def test_a_version_that_failed_and_that_the_repository_does_not_list_is_not_waited_for(repository, clock):
    server = Scripted(repository)
    server.states = {("style", "5"): READY, ("style", "6"): READY}
    watcher, _ = watching(server)
    server.states["style", "6"] = FAILED
    clock.watch(watcher, 60)
    assert server.loaded == []
    server.states["style", "5"] = FAILED
    clock.watch(watcher, 10)
    assert server.loaded[:1] == ["style"]


def test_a_model_that_a_person_unloaded_or_removed_stays_away(repository, clock):
    server = Scripted(repository, loads=["broken"] * 1000)
    server.states = {("stylize", "1"): READY, ("style", "5"): READY}
    watcher, _ = watching(server)
    server.states = {("stylize", "1"): UNLOADED, ("style", "5"): FAILED}
    shutil.rmtree(repository / "style")
    clock.watch(watcher, 60)
    assert server.loaded == []


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
    hung_processes.HungProcesses().end(os.getpid(), said.append)
    assert said == [f"process {standing.pid} has been stopped by a signal; ending it"]
    assert standing.wait(10) == -signal.SIGKILL
    assert working.poll() is None


def test_a_server_that_stands_still_is_ended_after_a_while_and_one_that_goes_on_is_not(two_processes, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    standing, resumed = two_processes
    said: list[str] = []
    watches = {process: hung_processes.HungProcesses() for process in two_processes}
    for process, hung in watches.items():
        stop(process)
        hung.end(process.pid, said.append)
    resumed.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, resumed.pid, os.WCONTINUED)
    now[0] = hung_processes.HUNG_S
    for process, hung in watches.items():
        hung.end(process.pid, said.append)
    assert said == [f"process {standing.pid} has been stopped by a signal; ending it"]
    assert standing.wait(10) == -signal.SIGKILL
    assert resumed.poll() is None
