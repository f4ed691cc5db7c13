"""The way back of a request: arrays and errors as Triton's responses, sent from any thread. Runs inside Triton's stub."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from reverie.errors import Cancelled, InputError, TimedOut, Unavailable
from serving.telemetry import logs
from serving.telemetry.model_metrics import OK, RequestMeasurement

log = logging.getLogger("reverie")

Outputs = dict[str, np.ndarray]
Send = Callable[[Outputs], None]
ToError = Callable[[str, str], Any]
"""Of a gRPC status by name and a message."""

_TRITON_CODES = {"INVALID_ARGUMENT": "INVALID_ARG", "DEADLINE_EXCEEDED": "CANCELLED"}
"""What Triton calls a gRPC status, where it has another name for it or none."""
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Responder:
    """Sends what one caller gets, from any thread; nothing follows its last response.

    Triton frees what a sender refers to once its last response is sent. A question that came later would read freed
    memory, so sending and asking take turns.

    Args:
        sender: of the request.
        to_error: makes the error that ends the answer; see `to_error` and `to_stream_error`.
        measurement: of the request; told what leaves.
    """

    def __init__(self, sender: Any, to_error: ToError, measurement: RequestMeasurement):
        self._sender, self._to_error, self.measurement = sender, to_error, measurement
        self._lock = threading.Lock()
        self._ended = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has left, or its deadline has passed, before the last response."""
        with self._lock:
            return not self._ended and (self.measurement.is_late or self._sender.is_cancelled())

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` if `is_cancelled`; `TimedOut` where it is for the deadline."""
        if self.is_cancelled:
            raise TimedOut if self.measurement.is_late else Cancelled

    def send(self, response: Any, last: bool = False) -> None:
        """Send one of Triton's responses; `last` says that none will follow."""
        self._send(response, last=last)
        self.measurement.message()
        if last:
            self.measurement.finish(OK)

    def fail(self, failure: BaseException) -> None:
        """End the answer with an error."""
        identity = self.measurement.identity
        status, message = status_of(failure, identity.request_id)
        if identity.is_ours:  # Else its caller would not know it.
            message = f"{message} (request {identity.request_id})"
        self.measurement.finish(status)
        self._send(pb_utils.InferenceResponse(error=self._to_error(status, message)), last=True)

    def close(self, status: str = OK) -> None:
        """End the answer: nothing follows what was sent.

        Args:
            status: what the request is counted as.
        """
        self._send(last=True)
        self.measurement.finish(status)

    def _send(self, *response: Any, last: bool) -> None:
        with self._lock:
            self._ended = self._ended or last
            self._sender.send(*response, flags=_FINAL if last else 0)


def to_response(outputs: Outputs) -> Any:
    """Arrays by output name as a Triton response."""
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(n, a) for n, a in outputs.items()])


def to_error(status: str, message: str) -> Any:
    """The error that a model that answers once gives; Triton turns its code into the gRPC status."""
    return _triton_error(status, message)


def to_stream_error(status: str, message: str) -> Any:
    """An error as the last message of a stream, its gRPC status in front: "INVALID_ARGUMENT: ...".

    Triton sends a stream's error as text without a status. Its header `triton_grpc_error`, which makes it a
    status, crashes Triton 2.51 (see docs/decisions.md).
    """
    return _triton_error(status, f"{status}: {message}")


def status_of(failure: BaseException, request_id: str) -> tuple[str, str]:
    """The gRPC status an exception deserves and its message; what we did not foresee is logged and INTERNAL."""
    if isinstance(failure, TimedOut):
        return "DEADLINE_EXCEEDED", "the request's deadline has passed"
    if isinstance(failure, Cancelled):
        return "CANCELLED", "the request was cancelled"
    if isinstance(failure, Unavailable):
        return "UNAVAILABLE", str(failure)
    if isinstance(failure, InputError):
        return "INVALID_ARGUMENT", str(failure)
    log.error("request %s failed\n%s", request_id, logs.without_messages(failure))
    return "INTERNAL", f"{type(failure).__name__}: {failure}"


def _triton_error(status: str, message: str) -> Any:
    code = _TRITON_CODES.get(status, status)
    return pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))


def byte_array(value: bytes) -> np.ndarray:
    """A BYTES tensor of one element."""
    return np.array([value], dtype=np.object_)
