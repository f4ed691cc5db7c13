"""What the Python models share: reading a request, answering a stream, and turning errors into statuses.

A model gives `respond(request, send)`; `send` raises `Cancelled` once the caller is gone, so every
model stops at its next message. Runs inside Triton's stub process.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils
from pydantic import BaseModel, ValidationError

from synthesis.errors import InputError
from synthesis.progress import Cancelled

log = logging.getLogger("reverie")

Outputs = dict[str, np.ndarray]
Files = list[bytes]
Send = Callable[[Outputs], None]
Parameters = TypeVar("Parameters", bound=BaseModel)

_RESERVED = {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"}
"""Request parameters that belong to Triton's protocol, not to a model."""


class Unavailable(RuntimeError):
    """The request cannot be served now; it may be sent again later."""


class Request:
    """A read-only view of one inference request."""

    def __init__(self, raw: Any):
        self._raw = raw

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


def describe(error: Any, model: type[BaseModel]) -> str:
    """One pydantic error as: the parameter, its value, what is accepted."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; accepted: {', '.join(sorted(model.model_fields))}"
    value = repr(error["input"])
    return f"{name}: {value if len(value) <= 80 else value[:77] + '...'} is not accepted; {error['msg']}"


class StreamingModel:
    """Base of the decoupled models: a few worker threads, a bounded queue, cancellation, errors.

    Attributes:
        workers: requests that run at once.
        max_pending: requests running or waiting; one more is refused as unavailable.
    """

    workers = 2
    max_pending = 32

    def initialize(self, args: dict[str, str]) -> None:
        self.config = json.loads(args["model_config"])
        self._pool = ThreadPoolExecutor(self.workers)
        self._pending = 0
        self._lock = threading.Lock()
        self.setup()

    def setup(self) -> None:
        """Load what requests need; called once an instance."""

    def respond(self, request: Request, send: Send) -> None:
        """Answer one request with any number of messages."""
        raise NotImplementedError

    def execute(self, requests: list[Any]) -> None:
        for raw in requests:
            with self._lock:
                self._pending += 1
            self._pool.submit(self._serve, raw, raw.get_response_sender())

    def finalize(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _serve(self, raw: Any, sender: Any) -> None:
        error = None
        try:
            if self._pending > self.max_pending:
                raise Unavailable(
                    f"{self._pending} requests are waiting; at most {self.max_pending} may; try again later"
                )

            def send(outputs: Outputs) -> None:
                _raise_if_cancelled(sender)
                sender.send(to_response(outputs))

            _raise_if_cancelled(sender)
            self.respond(Request(raw), send)
        except BaseException as failure:
            error = to_stream_error(failure)
        with self._lock:
            self._pending -= 1
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if error is None:
            sender.send(flags=final)
        else:
            sender.send(pb_utils.InferenceResponse(error=error), flags=final)


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
