"""What the Python models share: reading a request, answering a stream, and turning errors into statuses.

A model that streams gives `respond(request, send)`; `send` raises `Cancelled` once the caller is gone, so every
model stops at its next message. One that answers once gives `answer(request)`. Runs inside Triton's stub process.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils
from pydantic import BaseModel, ValidationError
from reverie_client import headers

from reverie.errors import Cancelled, InputError, Unavailable
from serving.parameters import describe
from serving.python_backend import shared_memory
from serving.python_backend.admission import AdmissionController, FairQueue

log = logging.getLogger("reverie")

Outputs = dict[str, np.ndarray]
Files = list[bytes]
Send = Callable[[Outputs], None]
Parameters = TypeVar("Parameters", bound=BaseModel)

_WATCH_SECONDS = 0.5
"""Between questions whether those who wait are still there."""
_NO_ROOM = "shared memory pool size"
"""In Triton's message about tensors that do not fit."""
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_RESERVED = {
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", headers.CLIENT
}  # fmt: skip
"""Request parameters that belong to the protocol, not to a model."""


def client_of(raw: Any) -> str:
    """Who sent a request, as the header `reverie-client` says, which Triton passes on as a parameter; "" if nobody."""
    parameters = raw.parameters()
    return str(json.loads(parameters).get(headers.CLIENT, "")) if headers.CLIENT in (parameters or "") else ""


class Request:
    """A read-only view of one inference request."""

    def __init__(self, raw: Any, sender: Any = None):
        self._raw, self._sender = raw, sender

    @property
    def client(self) -> str:
        """Who sent it; see `client_of`."""
        return client_of(self._raw)

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` once the caller has left, or its deadline has passed."""
        if self._sender is not None:
            _raise_if_cancelled(self._sender)

    def bytes(self, name: str) -> bytes:
        """The single element of a BYTES input; empty if an optional input was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._raw, name)
        if tensor is None:
            return b""
        array = tensor.as_numpy()
        if array.size != 1:
            raise InputError(f"{name}: {array.size} elements; accepted: exactly 1")
        value = array.reshape(-1)[0]
        return value if isinstance(value, bytes) else bytes(str(value), "utf-8")

    def text(self, name: str) -> str:
        """The single element of a BYTES input as UTF-8."""
        return _utf8(name, self.bytes(name))

    def texts(self, name: str) -> list[str]:
        """All elements of a BYTES input as UTF-8; none if an optional input was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._raw, name)
        if tensor is None:
            return []
        return [_utf8(name, value) for value in tensor.as_numpy().reshape(-1)]

    def array(self, name: str) -> np.ndarray:
        """An input as it came."""
        return pb_utils.get_input_tensor_by_name(self._raw, name).as_numpy()

    def files(self, name: str) -> Files:
        """All elements of a BYTES input; none if an optional input was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._raw, name)
        return [] if tensor is None else list(tensor.as_numpy().reshape(-1))

    def parameters(self, model: type[Parameters], **more: Any) -> Parameters:
        """The request's parameters, checked by `model`.

        Args:
            more: parameters that came as inputs.

        Raises:
            InputError: one of them is unknown or outside its range.
        """
        given = json.loads(self._raw.parameters() or "{}") | more
        own = {k: v for k, v in given.items() if k not in _RESERVED and not k.startswith("triton_")}
        try:
            return model.model_validate(own)
        except ValidationError as error:
            raise InputError("; ".join(describe(e, model) for e in error.errors())) from None


def _utf8(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 ({error.reason} at byte {error.start}); accepted: UTF-8 text") from None


@dataclass(eq=False)
class _Waiting:
    """A request that waits for a thread."""

    raw: Any
    sender: Any


class PooledModel:
    """Base of models whose requests are answered by a few threads, from a bounded queue in which clients take turns.

    Attributes:
        workers: requests of one client that run at once.
        max_waiting: how many more of it may wait; one more is refused as unavailable. All clients together have twice as
            many places. The parameters `workers` and `max_waiting` of a model's configuration say otherwise.
    """

    workers = 2
    max_waiting = 12

    def initialize(self, args: dict[str, str]) -> None:
        self.args = args
        self.config = json.loads(args["model_config"])
        workers, waiting = self.limits()
        self._places = AdmissionController(2 * (workers + waiting), workers + waiting)
        self._queue: FairQueue[_Waiting] = FairQueue(workers)
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
        return self._setting("workers", self.workers), self._setting("max_waiting", self.max_waiting)

    def threads(self) -> int:
        """Requests of all clients that run at once: one client leaves some for the others."""
        workers, _ = self.limits()
        return workers + max(1, workers // 4)

    def execute(self, requests: list[Any]) -> None:
        for raw in requests:
            sender, client = raw.get_response_sender(), client_of(raw)
            try:
                self._places.acquire(client)
            except Unavailable as full:
                self.send_error(sender, full)
            else:
                self._queue.put(client, _Waiting(raw, sender))

    def finalize(self) -> None:
        self._closed.set()
        self._queue.close()
        for thread in self._threads:
            thread.join()

    def serve(self, raw: Any, sender: Any) -> None:
        """Answer one request with its last response, whatever happens."""
        raise NotImplementedError

    def send_error(self, sender: Any, failure: BaseException) -> None:
        """End a request with an error."""
        raise NotImplementedError

    def _meaning(self, failure: BaseException) -> BaseException:
        """`failure`, or what it means that Triton found no room for tensors in shared memory, which never shrinks."""
        if not isinstance(failure, shared_memory.NoRoom) and _NO_ROOM not in str(failure):
            return failure
        if self._places.taken > 1:
            return Unavailable("the server's shared memory is full of other requests; try again later")
        return InputError(
            f"the request and its answer are {shared_memory.TOO_LARGE}; accepted: what fits in "
            f"{shared_memory.total_mib()} MiB (/dev/shm) beside the models; send a smaller picture, or give the server more (docker: --shm-size)"
        )

    def _setting(self, name: str, default: int) -> int:
        return int(self.config.get("parameters", {}).get(name, {}).get("string_value", default))

    def _work(self) -> None:
        while (taken := self._queue.get()) is not None:
            client, item = taken
            try:
                self.serve(item.raw, item.sender)
            except BaseException:
                log.exception("a response could not be sent")
            finally:
                del taken, item  # Until the next one comes, nothing of this one should be kept.
                self._queue.done(client)
                self._places.release(client)

    def _drop_abandoned(self) -> None:
        """End the requests that wait for a thread and whose callers have left, or whose deadlines have passed."""
        while not self._closed.wait(_WATCH_SECONDS):
            for client, item in self._queue.drop(_has_left):
                try:
                    self.send_error(item.sender, Cancelled())
                except BaseException:
                    log.exception("a response could not be sent")
                finally:
                    self._places.release(client)


def _has_left(item: _Waiting) -> bool:
    try:
        return bool(item.sender.is_cancelled())
    except Exception:
        log.exception("a caller could not be asked whether it is still there")
        return True


class StreamingModel(PooledModel):
    """Base of the decoupled models: any number of messages, cancellation, errors as the last message."""

    def respond(self, request: Request, send: Send) -> None:
        """Answer one request with any number of messages."""
        raise NotImplementedError

    def serve(self, raw: Any, sender: Any) -> None:
        def send(outputs: Outputs) -> None:
            _raise_if_cancelled(sender)
            sender.send(to_response(outputs))

        try:
            _raise_if_cancelled(sender)
            self.respond(Request(raw, sender), send)
        except BaseException as failure:
            self.send_error(sender, self._meaning(failure))
        else:
            sender.send(flags=_FINAL)

    def send_error(self, sender: Any, failure: BaseException) -> None:
        sender.send(pb_utils.InferenceResponse(error=to_stream_error(failure)), flags=_FINAL)


class UnaryModel(PooledModel):
    """Base of models that answer once, for unary calls, and still work on several requests at a time.

    Triton (since 24.06) lets a model that is not decoupled return from `execute` and answer each request later
    through its response sender, exactly once.
    """

    def answer(self, request: Request) -> Outputs:
        """The one answer to a request."""
        raise NotImplementedError

    def serve(self, raw: Any, sender: Any) -> None:
        try:
            _raise_if_cancelled(sender)
            outputs = self.answer(Request(raw, sender))
            # Triton takes no error in the place of an answer that did not fit; its caller would wait for ever.
            shared_memory.check_room(outputs.values(), (tensor.as_numpy() for tensor in raw.inputs()))
            response = to_response(outputs)
        except BaseException as failure:
            self.send_error(sender, self._meaning(failure))
        else:
            sender.send(response, flags=_FINAL)

    def send_error(self, sender: Any, failure: BaseException) -> None:
        sender.send(pb_utils.InferenceResponse(error=to_error(failure)), flags=_FINAL)


def _raise_if_cancelled(sender: Any) -> None:
    if sender.is_cancelled():
        raise Cancelled


def to_response(outputs: Outputs) -> Any:
    """Arrays by output name as a Triton response."""
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(n, a) for n, a in outputs.items()])


def to_error(failure: BaseException) -> Any:
    """An exception as the answer of a model that answers once; Triton turns its code into the gRPC status."""
    status, message = status_of(failure)
    return _triton_error(status, message)


def to_stream_error(failure: BaseException) -> Any:
    """An exception as the last message of a stream, its gRPC status in front: "INVALID_ARGUMENT: ...".

    Triton sends a stream's error as text without a status. Its header `triton_grpc_error`, which makes it a
    status, crashes Triton 2.51 (see docs/decisions.md).
    """
    status, message = status_of(failure)
    return _triton_error(status, f"{status}: {message}")


def status_of(failure: BaseException) -> tuple[str, str]:
    """The gRPC status an exception deserves and its message; what we did not foresee is logged and INTERNAL."""
    if isinstance(failure, Cancelled):
        return "CANCELLED", "the request was cancelled"
    if isinstance(failure, Unavailable):
        return "UNAVAILABLE", str(failure)
    if isinstance(failure, InputError):
        return "INVALID_ARGUMENT", str(failure)
    log.exception("a request failed", exc_info=failure)
    return "INTERNAL", f"{type(failure).__name__}: {failure}"


def _triton_error(status: str, message: str) -> Any:
    code = "INVALID_ARG" if status == "INVALID_ARGUMENT" else status
    return pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))


def byte_array(value: bytes) -> np.ndarray:
    """A BYTES tensor of one element."""
    return np.array([value], dtype=np.object_)
