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
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import wait
from pathlib import Path

from language.tokenizer import load_tokenizer
from reverie.errors import Unavailable
from serving.python_backend.admission import AdmissionController, Reservation
from serving.telemetry import definitions
from serving.text.decoder import positions_of
from serving.text.engine import MODEL
from serving.text.parameters import GenerateParameters
from serving.text.process import EngineProcess
from serving.text.prompts import task_of
from serving.text.request import EngineLost, QueueFull, Sink, Task, TextDelta, TextRequest

log = logging.getLogger("reverie")

_PREFETCH = 2
"""Continuations that wait in a process beyond its slots, so that a slot that gets free is filled at once."""
_WATCH_INTERVAL = 0.1
"""Seconds between questions whether a caller is still there: each costs a message to Triton."""
_END_SECONDS = 10
_PROMPT_TOKENS = definitions.PROMPT_TOKENS.labels(MODEL)


class EnginePool:
    """Generates text for many callers at once, and alone decides who is admitted.

    Args:
        folder: a version of `language_model`.
        precision: of the graph: "int8", "float16" or "float32".
        slots: sequences of one client that run at once, over all processes; for others there are a quarter more.
        workers: processes; 0 for one a core that this one may use.
        max_waiting: sequences of one client that may wait; of all clients together twice as many may wait or run.
        max_requests: requests of one client that may wait or run, however few sequences they are; of all clients together
            twice as many.

    Attributes:
        tokenizer, positions: of the model.
        admission: places for requests. Who must queue a request before its prompt can be read takes one for `submit`.
        continuations: places for their continuations.

    Raises:
        RuntimeError: a process could not load the model.
    """

    def __init__(
        self,
        folder: Path,
        precision: str = "int8",
        slots: int = 32,
        workers: int = 0,
        max_waiting: int = 512,
        max_requests: int = sys.maxsize,
    ):
        workers = workers or len(os.sched_getaffinity(0))
        self.tokenizer, self.positions = load_tokenizer(folder), positions_of(folder)
        self._slots_per_worker = -(-slots // workers)
        self._slots = self._slots_per_worker + max(1, self._slots_per_worker // 4)
        of_one = workers * self._slots_per_worker + max_waiting
        self.admission = AdmissionController(2 * max_requests, max_requests)
        self.continuations = AdmissionController(2 * of_one, of_one, "continuations")
        self._load_fd = os.memfd_create("reverie-text-load")
        os.ftruncate(self._load_fd, 8)
        self._load = memoryview(mmap.mmap(self._load_fd, 8)).cast("q")
        self._model = [str(folder), precision, str(self._slots), str(self._slots_per_worker)]
        self._lock = threading.Lock()
        self._waiting: dict[str, list[TextRequest]] = {}
        self._live: dict[TextRequest, None] = {}
        self._closed = False
        self._number = 0
        self._processes = [self._start() for _ in range(workers)]
        self._await_ready()
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
            place: of `admission`, where the request has one already.

        Raises:
            InputError: the prompt is too long or empty, or a parameter does not fit this model.
            QueueFull: too many sequences are waiting.
            EngineLost: no process is left.
        """
        task = task_of(text, parameters, self.tokenizer, self.positions, client)
        _PROMPT_TOKENS.inc(len(task.prompt))
        with self._lock:
            if self._closed or all(process.has_ended for process in self._processes):
                raise EngineLost("the text engine has ended")
            request = self._admitted(task, sink, place)
            self._live[request] = None
            self._waiting.setdefault(client, []).append(request)
            self._dispatch()

    def pids(self) -> list[int]:
        """The processes."""
        return [process.process.pid for process in self._processes]

    def loads(self, client: str) -> list[int]:
        """Continuations of a client that each process has."""
        with self._lock:
            return [process.load_of(client) for process in self._processes]

    def close(self) -> None:
        """End all requests as cancelled, and the processes."""
        with self._lock:
            self._closed = True
        self._cancel_all(list(self._live))
        deadline = time.monotonic() + _END_SECONDS
        while self._live and time.monotonic() < deadline and not all(p.has_ended for p in self._processes):
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
            process.end()

    # The queue; the lock is held.

    def _admitted(self, task: Task, sink: Sink, place: Reservation | None) -> TextRequest:
        """A request that holds its places."""
        own = self.admission.reserve(task.client) if place is None else place.transfer()
        try:
            continuations = self.continuations.reserve(task.client, task.parameters.n)
        except Unavailable as full:
            own.release()
            raise QueueFull(str(full)) from None
        return TextRequest(sink, task, own, continuations, deque(range(task.parameters.n)))

    def _dispatch(self) -> None:
        """Hand what waits to the processes, as far as they have room."""
        while (found := self._next()) is not None:
            process, request = found
            self._number += 1
            process.begin(self._number, request)
            if not request.waiting:
                self._forget(request)
        self._load[0] = sum(process.load for process in self._processes)

    def _next(self) -> tuple[EngineProcess, TextRequest] | None:
        """What has the fewest slots of those that wait, and the process with the least to do that has room for it."""
        ready = [process for process in self._processes if process.ready and process.load < self._slots + _PREFETCH]
        held = {client: sum(process.load_of(client) for process in ready) for client in self._waiting} if ready else {}
        for client in sorted(held, key=lambda client: held[client]):
            room = [process for process in ready if process.load_of(client) < self._slots_per_worker + _PREFETCH]
            if room:
                request = min(self._waiting[client], key=lambda request: request.running)
                return min(room, key=lambda process: process.load), request
        return None

    def _forget(self, request: TextRequest) -> None:
        """Take a request out of the queue."""
        requests = self._waiting[request.task.client]
        requests.remove(request)
        if not requests:
            del self._waiting[request.task.client]

    def _cancel(self, request: TextRequest) -> bool:
        """Forget what waits of a request and tell the processes that have the rest.

        Returns:
            Whether nothing was running, so that the caller of this must send the last message.
        """
        if request.waiting:
            self._forget(request)
        request.cancel()
        for process in self._processes:
            process.cancel(request)
        return not request.closed and self._close_if_done(request)

    def _close_if_done(self, request: TextRequest, failed: bool = False) -> bool:
        """Whether nothing will be heard of a request any more; its places are then free."""
        if not request.close_if(failed):
            return False
        self._live.pop(request, None)
        return True

    # Processes, and the pool's own threads.

    def _start(self) -> EngineProcess:
        return EngineProcess.start(self._load_fd, *self._model)

    def _await_ready(self) -> None:
        try:
            for process in self._processes:
                process.await_ready()
        except BaseException:
            for process in self._processes:
                process.process.kill()
            raise

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
                self._on_message(process, message)

    def _on_message(self, process: EngineProcess, message: tuple | list) -> None:
        if message[0] == "ready":
            with self._lock:
                process.ready = True
                self._dispatch()
        elif message[0] == "failed":
            log.critical("a process of the text engine could not load the model again: %s", message[1])
        else:
            for update in message:
                self._on_update(process, *update)

    def _on_update(
        self, process: EngineProcess, number: int, content: TextDelta | BaseException | None, last: bool
    ) -> None:
        """What is new of one continuation, or an error that ends its request."""
        with self._lock:
            part = process.work.get(number)
            if part is None:
                return
            request, failed = part.request, isinstance(content, BaseException)
            if last:
                del process.work[number]
                request.end_one()
            is_heard = not request.closed
            is_complete = self._close_if_done(request, failed)
            if failed:
                self._cancel(request)
            if last:
                self._dispatch()
        if is_heard:
            request.deliver(content, is_complete)

    def _replace(self, process: EngineProcess) -> None:
        """Fail what a process had that ended, and start another one."""
        process.connection.close()
        with self._lock:
            was_ready, process.ready = process.ready, False
            lost = list(process.work)
            if not self._closed and was_ready:
                log.error("process %d of the text engine ended; starting another one", process.process.pid)
                self._processes[self._processes.index(process)] = self._start()
        for number in lost:
            self._on_update(process, number, EngineLost("the process that wrote this text has ended; try again"), True)
        process.process.poll()

    def _watch(self) -> None:
        """Cancel the requests whose callers have gone."""
        while not self._closed:
            time.sleep(_WATCH_INTERVAL)
            with self._lock:
                live = [request for request in self._live if not request.cancelled]
            self._cancel_all([request for request in live if request.has_gone])

    def _cancel_all(self, requests: list[TextRequest]) -> None:
        with self._lock:
            ended = [request for request in requests if self._cancel(request)]
        for request in ended:
            request.deliver(None, last=True)
