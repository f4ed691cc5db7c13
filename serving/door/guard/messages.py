"""What an inference request may ask of Triton: pure functions from a message's bytes to a refusal, or to nothing.

The message is walked field by field without a copy: pictures (`raw_input_contents`) are stepped over, the rest is parsed
and looked at whole. What is refused, because Triton 2.51 dies or bloats of it: see `check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from reverie_client import headers
from tritonclient.grpc import service_pb2

MOST_FIELDS = 1_024
"""Of a message: inputs, outputs, parameters and tensors together."""
MOST_BESIDE_TENSORS = 16 * 2**20
"""Bytes of a message without its `raw_input_contents`."""
MOST_TENSORS, MOST_PARAMETERS, MOST_SIDES = 64, 256, 16
DEEPEST_JSON = 64
LONGEST_PARAMETER = 2**20

_LENGTH_DELIMITED = 2
_RAW_INPUT_CONTENTS = 7
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_ONLY_THE_DOOR_SAYS = (headers.CLIENT,)
"""Parameters that models take for Triton's word on who calls."""


class Refused(Exception):
    """A request that does not pass.

    Attributes:
        code: the gRPC status.
        message: what was wrong, and what is accepted.
    """

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class Envelope:
    """A request without its tensors.

    Attributes:
        request: everything but `raw_input_contents`.
        raw_sizes: bytes of each of those.
    """

    request: service_pb2.ModelInferRequest
    raw_sizes: Sequence[int]


def check(message: bytes) -> None:
    """Refuse a ModelInferRequest that is known to harm Triton.

    - classification: of a BYTES output it divides by zero;
    - shared memory: another's could be named;
    - a shape with a side below 1, or with more elements than bytes came: never answered, or the model's process ends;
    - JSON nested deep, and parameters, tensors and fields without number;
    - a parameter that says who calls, which only the door does.

    Raises:
        Refused: with what is accepted.
    """
    envelope = unwrap(message)
    request = envelope.request
    _check_counts(request)
    _check_parameters(request)
    for index, tensor in enumerate(request.inputs):
        _check_tensor("input", tensor)
        raw = envelope.raw_sizes[index] if index < len(envelope.raw_sizes) else 0
        _check_shape(tensor, raw + tensor.contents.ByteSize())
    for output in request.outputs:
        _check_tensor("output", output)


def unwrap(message: bytes) -> Envelope:
    """Parse a request without its tensors, which are measured only.

    Raises:
        Refused: it is no ModelInferRequest.
    """
    view = memoryview(message)
    rest, raw_sizes, taken = bytearray(), [], 0
    for begin, content, end, field in _fields(message):
        if field == _RAW_INPUT_CONTENTS:
            rest += view[taken:begin]
            raw_sizes.append(end - content)
            taken = end
    rest += view[taken:]
    if len(rest) > MOST_BESIDE_TENSORS:
        raise Refused(
            f"{len(rest)} bytes beside raw_input_contents; accepted: {MOST_BESIDE_TENSORS}, so send large tensors raw"
        )
    try:
        return Envelope(service_pb2.ModelInferRequest.FromString(bytes(rest)), raw_sizes)
    except DecodeError:
        raise _not_a_request() from None


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each field's begin, the begin of its content, its end, and its number; all of this message have a length."""
    position, size, count = 0, len(message), 0
    while position < size:
        begin = position
        tag, position = _varint(message, position)
        length, position = _varint(message, position)
        field, wire_type = tag >> 3, tag & 7
        end = position + length
        if wire_type != _LENGTH_DELIMITED or not 1 <= field <= _RAW_INPUT_CONTENTS or end > size:
            raise _not_a_request()
        count += 1
        if count > MOST_FIELDS:
            raise Refused(f"more than {MOST_FIELDS} fields in a request; accepted: {MOST_FIELDS}")
        yield begin, position, end, field
        position = end


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _not_a_request()


def _not_a_request() -> Refused:
    return Refused("this is no inference.ModelInferRequest; accepted: the fields of the Open Inference Protocol")


def _check_counts(request: service_pb2.ModelInferRequest) -> None:
    counts = {"inputs": MOST_TENSORS, "outputs": MOST_TENSORS, "parameters": MOST_PARAMETERS}
    for name, most in counts.items():
        if (found := len(getattr(request, name))) > most:
            raise Refused(f"{found} {name}; accepted: at most {most}")


def _check_parameters(request: service_pb2.ModelInferRequest) -> None:
    for name, parameter in request.parameters.items():
        if name.lower() in _ONLY_THE_DOOR_SAYS:
            raise Refused(f"parameter {name!r}: who calls is said by a header; accepted: the model's own parameters")
        text = parameter.string_param
        if len(text) > LONGEST_PARAMETER:
            raise Refused(f"parameter {name[:80]!r}: {len(text)} characters; accepted: at most {LONGEST_PARAMETER}")
        if is_deep(text):
            raise Refused(f"parameter {name[:80]!r}: JSON nested deeper than {DEEPEST_JSON}; accepted: {DEEPEST_JSON}")


def is_deep(text: str) -> bool:
    """Whether `text`, read as JSON, nests lists and objects deeper than `DEEPEST_JSON`."""
    if text.count("[") + text.count("{") <= DEEPEST_JSON:
        return False
    depth = 0
    for found in _NESTING.finditer(text):
        token = found[0]
        depth += 1 if token in "[{" else -1 if token in "]}" else 0
        if depth > DEEPEST_JSON:
            return True
    return False


def _check_tensor(kind: str, tensor: Any) -> None:
    """Triton knows parameters of single tensors for classification and for shared memory only."""
    for name in tensor.parameters:
        raise Refused(
            f"{kind} {tensor.name[:80]!r}: the parameter {name[:80]!r} is closed (classification and shared memory are "
            "not served); accepted: none"
        )


def _check_shape(tensor: Any, sent: int) -> None:
    """Every element takes a byte at least, so what came bounds what a shape may say."""
    name, shape = tensor.name[:80], tensor.shape
    if len(shape) > MOST_SIDES:
        raise Refused(f"input {name!r}: {len(shape)} sides; accepted: at most {MOST_SIDES}")
    elements = 1
    for side in shape:
        if side < 1:
            raise Refused(f"input {name!r}: shape {list(shape)} has a side below 1; accepted: sides from 1")
        elements *= side
    if elements > sent:
        raise Refused(
            f"input {name!r}: shape {list(shape)} has more elements than bytes came with it ({sent}); accepted: the shape "
            "of the data that is sent"
        )
