"""The way back of a request: arrays and errors as Triton's responses, sent from any thread. Runs inside Triton's stub."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from reverie.errors import Cancelled, InputError, Unavailable

log = logging.getLogger("reverie")

Outputs = dict[str, np.ndarray]
Send = Callable[[Outputs], None]

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Responder:
    """Sends what one caller gets, from any thread; nothing follows its last response.

    Triton frees what a sender refers to once its last response is sent. A question that came later would read freed
    memory, so sending and asking take turns.

    Args:
        sender: of the request.
        to_error: makes the error that ends the answer; see `to_error` and `to_stream_error`.
    """

    def __init__(self, sender: Any, to_error: Callable[[BaseException], Any]):
        self._sender, self._to_error = sender, to_error
        self._lock = threading.Lock()
        self._ended = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has left, or its deadline has passed, before the last response."""
        with self._lock:
            return not self._ended and self._sender.is_cancelled()

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` if `is_cancelled`."""
        if self.is_cancelled:
            raise Cancelled

    def send(self, response: Any, last: bool = False) -> None:
        """Send one of Triton's responses; `last` says that none will follow."""
        self._send(response, last=last)

    def fail(self, failure: BaseException) -> None:
        """End the answer with an error."""
        self._send(pb_utils.InferenceResponse(error=self._to_error(failure)), last=True)

    def close(self) -> None:
        """End the answer: nothing follows what was sent."""
        self._send(last=True)

    def _send(self, *response: Any, last: bool) -> None:
        with self._lock:
            self._ended = self._ended or last
            self._sender.send(*response, flags=_FINAL if last else 0)


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
