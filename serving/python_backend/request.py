"""A request as a Python model reads it: its inputs, its checked parameters, who sent it. Runs inside Triton's stub."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils
from pydantic import BaseModel, ValidationError
from reverie_client import headers

from reverie.errors import InputError
from serving.parameters import describe
from serving.python_backend.response import Responder
from serving.telemetry.identity import Identity

Files = list[bytes]
Parameters = TypeVar("Parameters", bound=BaseModel)

_RESERVED = {
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", headers.CLIENT,
    headers.TIMEOUT, headers.REQUEST_ID, headers.TRACE_PARENT,
}  # fmt: skip
"""Request parameters that belong to the protocol, not to a model."""
_HEADERS = frozenset((headers.CLIENT, headers.TIMEOUT, headers.REQUEST_ID, headers.TRACE_PARENT))


@dataclass(frozen=True)
class RequestHeaders:
    """Who sent a request, and how long it waits, as the headers say that Triton passes on as parameters.

    Attributes:
        identity: its id, the client's name and its place in a trace.
        timeout: seconds for the whole answer; infinite if nobody says.
    """

    identity: Identity
    timeout: float = math.inf

    @property
    def name(self) -> str:
        """Of `reverie-client`; "" if nobody says."""
        return self.identity.client

    @classmethod
    def of(cls, raw: Any) -> RequestHeaders:
        """Read one of Triton's requests."""
        said = _said(raw)
        identity = Identity.of(
            said.get(headers.REQUEST_ID, ""),
            raw.request_id(),
            client=said.get(headers.CLIENT, ""),
            traceparent=said.get(headers.TRACE_PARENT, ""),
        )
        timeout = headers.read_timeout(said.get(headers.TIMEOUT, ""))
        return cls(identity, math.inf if timeout is None else timeout)


def _said(raw: Any) -> dict[str, str]:
    """The headers among a request's parameters, by their names in small letters: over HTTP they come as they were written."""
    given = json.loads(raw.parameters() or "{}")
    return {low: str(value) for name, value in given.items() if (low := name.lower()) in _HEADERS}


class InferenceRequest:
    """A read-only view of one inference request.

    Args:
        raw: Triton's.
        responder: its way back.
        caller: who sent it.

    Attributes:
        client: the caller's name.
        measurement: of its way through the model.
    """

    def __init__(self, raw: Any, responder: Responder, caller: RequestHeaders):
        self._raw, self._responder = raw, responder
        self.client, self.measurement = caller.name, responder.measurement

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` once the caller has left, or its deadline has passed."""
        self._responder.raise_if_cancelled()

    def read_bytes(self, name: str) -> bytes:
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
        return _utf8(name, self.read_bytes(name))

    def texts(self, name: str) -> list[str]:
        """All elements of a BYTES input as UTF-8; none if an optional input was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._raw, name)
        if tensor is None:
            return []
        return [_utf8(name, value) for value in tensor.as_numpy().reshape(-1)]

    def arrays(self) -> list[np.ndarray]:
        """All inputs as they came."""
        return [tensor.as_numpy() for tensor in self._raw.inputs()]

    def array(self, name: str) -> np.ndarray:
        """An input as it came."""
        return pb_utils.get_input_tensor_by_name(self._raw, name).as_numpy()

    def optional_array(self, name: str) -> np.ndarray | None:
        """An optional input as it came; None if it was not sent."""
        tensor = pb_utils.get_input_tensor_by_name(self._raw, name)
        return None if tensor is None else tensor.as_numpy()

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that the caller asked for; all there are, where it named none."""
        return list(self._raw.requested_output_names())

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
        own = {k: v for k, v in given.items() if k.lower() not in _RESERVED and not k.startswith("triton_")}
        try:
            return model.model_validate(own)
        except ValidationError as error:
            raise InputError("; ".join(describe(e, model) for e in error.errors())) from None


def _utf8(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 ({error.reason} at byte {error.start}); accepted: UTF-8 text") from None
