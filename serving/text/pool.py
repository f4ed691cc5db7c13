"""One text engine a core, each in a process of its own, behind one bounded queue that clients share equally.

The next slot goes to the client that has the fewest, and of its requests to the one that has the fewest, so that nobody
waits behind another's hundred continuations. Since a slot is held until its text ends, each process has some beyond
those that one client may have: another's first text then begins at the next step.

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
from reverie.errors import Unavailable
from serving.python_backend.admission import AdmissionController, Reservation
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
        task: all its continuations.
        waiting: indices of those that no process has.
        running: parts that a process has.
        left: continuations that have not ended.
        whole: finished continuations of a caller that does not stream.
        cancelled: nobody wants it any more.
        closed: its last message was, or is just being, sent.
    """

    sink: Sink
    task: Task
    waiting: deque[int]
    left: int
    place: Reservation
    running: int = 0
    whole: list[Piece] = field(default_factory=list)
    cancelled: bool = False
    closed: bool = False


@dataclass(eq=False)
class _Part:
    """A continuation of a request, which one process makes."""

    request: _Request
    task: Task


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
        return len(self.parts)

    def load_of(self, client: str) -> int:
        """Those of one client."""
        return sum(part.task.client == client for part in self.parts.values())


class EnginePool:
    """Generates text for many callers at once; used as `engine.TextEngine` is.

    Args:
        folder: a version of `language_model`.
        variant: precision of the graph.
        slots: sequences of one client that run at once, over all processes; for others there are a quarter more.
        workers: processes; 0 for one a core that this one may use.
        max_waiting: sequences of one client that may wait; of all clients together twice as many may wait or run.

    Attributes:
        tokenizer, positions: of the model.

    Raises:
        RuntimeError: a process could not load the model.
    """

    def __init__(
        self,
        folder: Path,
        variant: str = "int8",
        slots: int = 32,
        workers: int = 0,
        max_waiting: int = 512,
        max_requests: int = sys.maxsize,
    ):
        workers = workers or len(os.sched_getaffinity(0))
        self.tokenizer, self.positions = load_tokenizer(folder), positions_of(folder)
        self._share = -(-slots // workers)
        self._slots = self._share + max(1, self._share // 4)
        of_one = workers * self._share + max_waiting
        self._places = AdmissionController(2 * of_one, of_one, "continuations")
        self.admission = AdmissionController(2 * max_requests, max_requests)
        self._load_fd = os.memfd_create("reverie-text-load")
        os.ftruncate(self._load_fd, 8)
        self._load = memoryview(mmap.mmap(self._load_fd, 8)).cast("q")
        self._command = [_python(), "-m", "serving.text.worker"]
        self._model = [str(folder), variant, str(self._slots), str(self._share)]
        self._lock = threading.Lock()
        self._waiting: dict[str, list[_Request]] = {}
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

    def submit(
        self,
        text: str,
        parameters: GenerateParameters,
        sink: Sink,
        client: str = "",
        place: Reservation | None = None,
    ) -> None:
        """Queue a request; its text goes to `sink`.

        Args:
            client: whose it is; "" is all who have no name.
            place: of `admission`, where it has one already; given back when the request has ended.

        Raises:
            InputError: the prompt is too long or empty, or a parameter does not fit this model.
            QueueFull: too many sequences are waiting.
            EngineLost: no process is left.
        """
        task = task_of(text, parameters, self.tokenizer, self.positions, client)
        with self._lock:
            if self._closed or all(process.process.poll() is not None for process in self._processes):
                raise EngineLost("the text engine has ended")
            try:
                place = place or self.admission.reserve(client)
                self._places.acquire(client, parameters.n)
            except Unavailable as full:
                raise QueueFull(str(full)) from None
            request = _Request(sink, task, deque(task.indices), parameters.n, place.transfer())
            self._live[request] = None
            self._waiting.setdefault(client, []).append(request)
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
        """Hand what waits to the processes, as far as they have room; the lock is held."""
        while (found := self._next()) is not None:
            process, request = found
            task = replace(request.task, indices=(request.waiting.popleft(),))
            if not request.waiting:
                self._forget(request)
            request.running += 1
            self._number += 1
            process.parts[self._number] = _Part(request, task)
            self._send(process, ("task", self._number, task))
        self._load[0] = sum(process.load for process in self._processes)

    def _next(self) -> tuple[_Process, _Request] | None:
        """What has the fewest slots of those that wait, and the process with the least to do that has room for it."""
        ready = [process for process in self._processes if process.ready and process.load < self._slots + _AHEAD]
        held = {client: sum(process.load_of(client) for process in ready) for client in self._waiting} if ready else {}
        for client in sorted(held, key=lambda client: held[client]):
            room = [process for process in ready if process.load_of(client) < self._share + _AHEAD]
            if room:
                request = min(self._waiting[client], key=lambda request: request.running)
                return min(room, key=lambda process: process.load), request
        return None

    def _forget(self, request: _Request) -> None:
        """Take a request out of the queue."""
        requests = self._waiting[request.task.client]
        requests.remove(request)
        if not requests:
            del self._waiting[request.task.client]

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
        if request.waiting:
            request.waiting.clear()
            self._forget(request)
        for process in self._processes:
            for number, part in process.parts.items():
                if part.request is request:
                    self._send(process, ("cancel", number))
        if request.running or request.closed:
            return False
        self._end(request)
        request.closed = True
        return True

    def _end(self, request: _Request) -> None:
        """Nothing will be heard of a request any more; the lock is held."""
        if self._live.pop(request, request) is None:
            self._places.release(request.task.client, request.left)
            request.place.release()

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
            if last:
                del process.parts[number]
                request.running -= 1
            complete = failed or not (request.running or request.waiting)
            is_heard, request.closed = not request.closed, request.closed or complete
            if complete:
                self._end(request)
            elif last and request in self._live:
                request.left -= 1
                self._places.release(request.task.client)
            if failed:
                self._cancel(request)
            self._dispatch()
        if is_heard:
            self._tell(request, what, complete)

    def _tell(self, request: _Request, what: Any, complete: bool) -> None:
        try:
            if isinstance(what, BaseException):
                request.sink.fail(what)
            elif request.task.parameters.stream:
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


def _python() -> str:
    """The interpreter of this environment; in Triton, `sys.executable` is not one."""
    own = Path(sys.executable or "")
    if own.name.startswith("python"):
        return str(own)
    found = shutil.which("python3", path=f"{sys.prefix}/bin") or shutil.which("python3")
    if found is None:
        raise RuntimeError("no python3 on PATH; the text engine runs in processes of its own")
    return found
