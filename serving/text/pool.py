"""One text engine a core, each in a process of its own, behind one bounded queue.

Processes, because a step's Python (sampling, texts) would otherwise wait for the other cores' Python: 32 streams
on 2 cores made 15 to 17 % more tokens than with threads, in two runs of both. A process that dies fails the requests it had, and
is started again.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from language.tokenizer import load_tokenizer
from serving.errors import Unavailable
from serving.text.decoder import positions_of
from serving.text.engine import Piece, QueueFull, Sink, Task, has_gone, task_of
from serving.text.parameters import GenerateParameters

log = logging.getLogger("reverie")

_PROJECT = Path(__file__).resolve().parents[2]
_AHEAD = 2
"""Continuations that wait in a process beyond its slots, so that a slot that gets free is filled at once."""
_WATCH_INTERVAL = 0.1
_END_SECONDS = 10


class EngineLost(Unavailable):
    """The process that wrote a text has ended."""


@dataclass(eq=False)
class _Request:
    """A caller and what is still to come; guarded by the pool's lock.

    Attributes:
        parts: tasks that wait or run.
        whole: finished continuations of a caller that does not stream.
        cancelled: nobody wants it any more.
        closed: its last message was, or is just being, sent.
    """

    sink: Sink
    streams: bool
    parts: int
    whole: list[Piece] = field(default_factory=list)
    cancelled: bool = False
    closed: bool = False


@dataclass(eq=False)
class _Part:
    """Some continuations of a request, which one process makes."""

    request: _Request
    task: Task
    left: int


@dataclass(eq=False)
class _Process:
    """An engine's process.

    Attributes:
        parts: what it works on, by number.
        ready: it has loaded the model.
    """

    process: subprocess.Popen
    connection: Connection
    parts: dict[int, _Part] = field(default_factory=dict)
    ready: bool = False

    @property
    def load(self) -> int:
        """Continuations that it has to make."""
        return sum(part.left for part in self.parts.values())


class EnginePool:
    """Generates text for many callers at once; used as `engine.TextEngine` is.

    Args:
        folder: a version of `language_model`.
        variant: precision of the graph.
        slots: sequences that run at once, over all processes.
        workers: processes; 0 for one a core that this one may use.
        max_waiting: sequences that may wait.

    Attributes:
        tokenizer, positions: of the model.

    Raises:
        RuntimeError: a process could not load the model.
    """

    def __init__(self, folder: Path, variant: str = "int8", slots: int = 32, workers: int = 0, max_waiting: int = 512):
        workers = workers or len(os.sched_getaffinity(0))
        self.tokenizer, self.positions = load_tokenizer(folder), positions_of(folder)
        self._share = -(-slots // workers)
        self._max_waiting = max_waiting
        self._load_fd = os.memfd_create("reverie-text-load")
        os.ftruncate(self._load_fd, 8)
        self._load = memoryview(mmap.mmap(self._load_fd, 8)).cast("q")
        self._command = [_python(), "-m", "serving.text.worker"]
        self._model = [str(folder), variant, str(self._share)]
        self._lock = threading.Lock()
        self._waiting: deque[_Part] = deque()
        self._live: dict[_Request, None] = {}
        self._closed = False
        self._number = 0
        self._processes = [self._start() for _ in range(workers)]
        try:
            for process in self._processes:
                self._await_ready(process)
        except BaseException:
            for process in self._processes:
                process.process.kill()
            raise
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._receive, self._watch)]
        for thread in self._threads:
            thread.start()

    def submit(self, text: str, parameters: GenerateParameters, sink: Sink) -> None:
        """Queue a request; its text goes to `sink`.

        Raises:
            InputError: the prompt is too long or empty, or a parameter does not fit this model.
            QueueFull: too many sequences are waiting.
            EngineLost: no process is left.
        """
        task = task_of(text, parameters, self.tokenizer, self.positions)
        with self._lock:
            alive = [process for process in self._processes if process.process.poll() is None]
            if not alive or self._closed:
                raise EngineLost("the text engine has ended")
            busy = sum(process.load for process in alive) + sum(part.left for part in self._waiting)
            waiting = max(0, busy - self._share * len(alive))
            if busy + parameters.n > self._share * len(alive) + self._max_waiting:
                raise QueueFull(
                    f"{waiting} continuations are waiting; at most {self._max_waiting} may; try again later"
                )
            tasks = _split(task, len(alive))
            request = _Request(sink, parameters.stream, len(tasks))
            self._live[request] = None
            self._waiting += [_Part(request, part, len(part.indices)) for part in tasks]
            self._dispatch()

    def close(self) -> None:
        """End all requests as cancelled, and the processes."""
        with self._lock:
            self._closed = True
        self._cancel_all(list(self._live))
        deadline = time.monotonic() + _END_SECONDS
        while self._live and time.monotonic() < deadline and any(p.process.poll() is None for p in self._processes):
            time.sleep(0.01)
        if self._live:
            for process in self._processes:
                process.process.kill()
        # Only then: a connection must not be closed while it is read from.
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.connection.close()
        for process in self._processes:
            try:
                process.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.process.kill()

    # Processes.

    def _start(self) -> _Process:
        ours, theirs = Pipe()
        paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [*self._command, str(theirs.fileno()), str(self._load_fd), *self._model],
            pass_fds=(theirs.fileno(), self._load_fd),
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        return _Process(process, ours)

    def _await_ready(self, process: _Process) -> None:
        try:
            kind, *why = process.connection.recv()
        except EOFError:
            kind, why = "failed", [f"its process ended with status {process.process.wait()}"]
        if kind != "ready":
            raise RuntimeError(f"the text engine could not load the model: {why[0]}")
        process.ready = True

    def _dispatch(self) -> None:
        """Hand waiting parts to the processes with the least to do; the lock is held."""
        while self._waiting:
            process = min((p for p in self._processes if p.ready), key=lambda p: p.load, default=None)
            if process is None or process.load >= self._share + _AHEAD:
                break
            part = self._waiting.popleft()
            self._number += 1
            process.parts[self._number] = part
            self._send(process, ("task", self._number, part.task))
        self._load[0] = sum(process.load for process in self._processes)

    def _send(self, process: _Process, message: tuple) -> None:
        try:
            process.connection.send(message)
        except OSError:
            log.warning("the text engine's process %d does not listen", process.process.pid)

    def _cancel(self, request: _Request) -> bool:
        """Forget what waits of a request and tell the processes that have the rest; the lock is held.

        Returns:
            Whether nothing was running, so that the caller of this must send the last message.
        """
        request.cancelled = True
        kept = [part for part in self._waiting if part.request is not request]
        request.parts -= len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        for process in self._processes:
            for number, part in process.parts.items():
                if part.request is request:
                    self._send(process, ("cancel", number))
        if request.parts or request.closed:
            return False
        self._live.pop(request, None)
        request.closed = True
        return True

    # The pool's own threads.

    def _receive(self) -> None:
        """Take what the processes say and hand it to the callers."""
        while not (self._closed and not self._live):
            connections = {process.connection: process for process in self._processes if not process.connection.closed}
            for connection in wait(list(connections), timeout=_WATCH_INTERVAL) if connections else ():
                process = connections[connection]  # type: ignore[index]
                try:
                    message = process.connection.recv()
                except (EOFError, OSError):
                    self._replace(process)
                    continue
                if message[0] == "ready":
                    with self._lock:
                        process.ready = True
                        self._dispatch()
                elif message[0] == "failed":
                    log.critical("a process of the text engine could not load the model again: %s", message[1])
                else:
                    self._hear(process, *message)

    def _hear(self, process: _Process, number: int, what: Any, last: bool = True) -> None:
        """Pieces or an error of one part."""
        with self._lock:
            part = process.parts.get(number)
            if part is None:
                return
            request = part.request
            failed = isinstance(what, BaseException)
            part.left -= 0 if failed else sum(bool(piece.finish_reason) for piece in what)
            if last:
                del process.parts[number]
                request.parts -= 1
            complete = failed or not request.parts
            is_heard, request.closed = not request.closed, request.closed or complete
            if complete:
                self._live.pop(request, None)
            if failed:
                self._cancel(request)
            self._dispatch()
        if is_heard:
            self._tell(request, what, complete)

    def _tell(self, request: _Request, what: Any, complete: bool) -> None:
        try:
            if isinstance(what, BaseException):
                request.sink.fail(what)
            elif request.streams:
                request.sink.send(what, complete)
            else:
                request.whole += what
                if complete:
                    request.sink.send(sorted(request.whole, key=lambda piece: piece.index), True)
        except Exception:
            log.exception("a caller could not be answered")

    def _replace(self, process: _Process) -> None:
        """Fail what a process had that ended, and start another one."""
        process.connection.close()
        with self._lock:
            was_ready, process.ready = process.ready, False
            lost = list(process.parts)
            if not self._closed and was_ready:
                log.error("process %d of the text engine ended; starting another one", process.process.pid)
                self._processes[self._processes.index(process)] = self._start()
        for number in lost:
            self._hear(process, number, EngineLost("the process that wrote this text has ended; try again"))
        process.process.poll()

    def _watch(self) -> None:
        """Cancel the requests whose callers have gone."""
        while not self._closed:
            time.sleep(_WATCH_INTERVAL)
            with self._lock:
                live = [request for request in self._live if not request.cancelled]
            self._cancel_all([request for request in live if has_gone(request.sink)])

    def _cancel_all(self, requests: list[_Request]) -> None:
        with self._lock:
            ended = [request for request in requests if self._cancel(request)]
        for request in ended:
            self._tell(request, [], complete=True)


def _split(task: Task, parts: int) -> list[Task]:
    """The task's continuations, dealt to at most so many tasks."""
    return [replace(task, indices=task.indices[i::parts]) for i in range(min(parts, len(task.indices)))]


def _python() -> str:
    """The interpreter of this environment; in Triton, `sys.executable` is not one."""
    own = Path(sys.executable or "")
    if own.name.startswith("python"):
        return str(own)
    found = shutil.which("python3", path=f"{sys.prefix}/bin") or shutil.which("python3")
    if found is None:
        raise RuntimeError("no python3 on PATH; the text engine runs in processes of its own")
    return found
