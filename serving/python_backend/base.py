"""What every Python model is made of: a bounded queue that clients share, threads that answer, errors as statuses.

A model that streams (`StreamingModel`) gives `respond(request, send)`; `send` raises `Cancelled` once the caller is gone, so
every model stops at its next message. One that answers once (`UnaryModel`) gives `answer(request)`. Runs inside Triton's
stub process.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

from reverie.errors import Cancelled, InputError, Unavailable
from serving.python_backend import shared_memory
from serving.python_backend.admission import AdmissionController, FairQueue, Reservation
from serving.python_backend.request import InferenceRequest, RequestHeaders
from serving.python_backend.response import Outputs, Responder, Send, to_error, to_response, to_stream_error
from serving.telemetry import logs, observers
from serving.telemetry.model_metrics import ModelMetrics, answering

log = logging.getLogger("reverie")

_WATCH_SECONDS = 0.5
"""Between questions whether those who wait are still there."""
_NO_ROOM = "shared memory pool size"
"""In Triton's message about tensors that do not fit."""


@dataclass(eq=False)
class Call:
    """A request on its way through a model: what is asked, the way back, and the place that it holds."""

    request: InferenceRequest
    responder: Responder
    place: Reservation


class PooledModel:
    """Base of models whose requests are answered by a few threads, from a bounded queue in which clients take turns.

    Attributes:
        workers: requests of one client that run at once.
        max_waiting: how many more of it may wait; one more is refused as unavailable. All clients together have twice as
            many places. The parameters `workers` and `max_waiting` of a model's configuration say otherwise.
        to_error: makes the error that ends an answer.
        admission: the places; `setup` may put others.
        metrics: of its requests.
    """

    workers = 2
    max_waiting = 12
    to_error: ClassVar = staticmethod(to_error)

    def initialize(self, args: dict[str, str]) -> None:
        self.args = args
        self.config = json.loads(args["model_config"])
        workers, waiting = self.limits()
        logs.configure()
        self.metrics = ModelMetrics(args["model_name"], args["model_version"], observers.from_environment())
        self.admission = AdmissionController(2 * (workers + waiting), workers + waiting)
        self._queue: FairQueue[Call] = FairQueue(workers)
        self._closed = threading.Event()
        self.setup()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.threads())]
        self._threads = [*threads, threading.Thread(target=self._drop_abandoned, daemon=True)]
        for thread in self._threads:
            thread.start()

    def setup(self) -> None:
        """Load what requests need; called once an instance."""

    def limits(self) -> tuple[int, int]:
        """How many requests of one client run at once, and how many more may wait."""
        return self.setting("workers", self.workers), self.setting("max_waiting", self.max_waiting)

    def threads(self) -> int:
        """Requests of all clients that run at once: one client leaves some for the others."""
        workers, _ = self.limits()
        return workers + max(1, workers // 4)

    def setting(self, name: str, default: int) -> int:
        """A whole number among the parameters of the model's configuration."""
        return int(self.config.get("parameters", {}).get(name, {}).get("string_value", default))

    def execute(self, requests: list[Any]) -> None:
        for raw in requests:
            caller = RequestHeaders.of(raw)
            measurement = self.metrics.arrival(caller.timeout, caller.identity)
            responder = Responder(raw.get_response_sender(), self.to_error, measurement)
            request = InferenceRequest(raw, responder, caller)
            try:
                place = self.admission.reserve(request.client)
            except Unavailable as full:
                responder.fail(full)
            else:
                self._queue.put(request.client, Call(request, responder, place))

    def finalize(self) -> None:
        self._closed.set()
        self._queue.close()
        for thread in self._threads:
            thread.join()
        observers.close()

    def answer_call(self, call: Call) -> None:
        """Send all that a caller gets, or hand the call to somebody who will; what is raised becomes its error."""
        raise NotImplementedError

    def _work(self) -> None:
        while (taken := self._queue.get()) is not None:
            client, call = taken
            try:
                self._serve(call)
            except BaseException:
                log.exception("a response could not be sent")
            finally:
                call.place.release()
                del taken, call  # Until the next one comes, nothing of this one should be kept.
                self._queue.done(client)

    def _serve(self, call: Call) -> None:
        try:
            call.responder.raise_if_cancelled()
            with answering(call.responder.measurement):
                self.answer_call(call)
        except BaseException as failure:
            call.responder.fail(self._meaning(failure))

    def _drop_abandoned(self) -> None:
        """End the requests that wait for a thread and whose callers have left, or whose deadlines have passed."""
        while not self._closed.wait(_WATCH_SECONDS):
            for _, call in self._queue.drop(_has_left):
                try:
                    call.responder.fail(Cancelled())
                except BaseException:
                    log.exception("a response could not be sent")
                finally:
                    call.place.release()

    def _meaning(self, failure: BaseException) -> BaseException:
        """`failure`, or what it means that Triton found no room for tensors in shared memory, which never shrinks."""
        if not isinstance(failure, shared_memory.NoRoom) and _NO_ROOM not in str(failure):
            return failure
        if self.admission.taken > 1:
            return Unavailable("the server's shared memory is full of other requests; try again later")
        return InputError(
            f"the request and its answer are {shared_memory.TOO_LARGE}; accepted: what fits in "
            f"{shared_memory.total_mib()} MiB (/dev/shm) beside the models; send a smaller picture, or give the server more (docker: --shm-size)"
        )


def _has_left(call: Call) -> bool:
    try:
        return bool(call.responder.is_cancelled)
    except Exception:
        log.exception("a caller could not be asked whether it is still there")
        return True


class StreamingModel(PooledModel):
    """Base of the decoupled models: any number of messages, cancellation, errors as the last message."""

    to_error = staticmethod(to_stream_error)

    def respond(self, request: InferenceRequest, send: Send) -> None:
        """Answer one request with any number of messages."""
        raise NotImplementedError

    def answer_call(self, call: Call) -> None:
        def send(outputs: Outputs) -> None:
            call.responder.raise_if_cancelled()
            call.responder.send(to_response(outputs))

        self.respond(call.request, send)
        call.responder.close()


class UnaryModel(PooledModel):
    """Base of models that answer once, for unary calls, and still work on several requests at a time.

    Triton (since 24.06) lets a model that is not decoupled return from `execute` and answer each request later
    through its response sender, exactly once.
    """

    def answer(self, request: InferenceRequest) -> Outputs:
        """The one answer to a request."""
        raise NotImplementedError

    def answer_call(self, call: Call) -> None:
        call.responder.measurement.begin()
        outputs = self.answer(call.request)
        if not call.responder.measurement.encoding:
            call.responder.measurement.encode()
        # Triton takes no error in the place of an answer that did not fit; its caller would wait for ever.
        shared_memory.check_room(outputs.values(), call.request.arrays())
        call.responder.send(to_response(outputs), last=True)
