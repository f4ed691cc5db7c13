"""The protocol's messages: arrays and parameters to protobuf, and back."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from reverie_client.errors import ParameterError

Parameter = Any
"""Of a request: text, a number, a truth value; a list or a mapping of such, which travels as JSON; NumPy's scalars and
arrays of them; None is as good as not given.
"""
_LIMIT = 2**63


def bytes_tensor(value: bytes) -> np.ndarray:
    """A BYTES tensor of one element."""
    return np.array([value], dtype=np.object_)


def to_request(
    model: str, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Parameter], version: str = ""
) -> service_pb2.ModelInferRequest:
    """An inference request; object arrays travel as BYTES."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = _datatype(name, array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        request.raw_input_contents.append(raw)
    for name, value in parameters.items():
        if value is not None:
            _set_parameter(request.parameters[name], plain(name, value))
    return request


def _datatype(name: str, array: np.ndarray) -> str:
    if not isinstance(array, np.ndarray):
        raise ParameterError(f"{name}: {_shown(array)} of type {type(array).__name__}; accepted: a NumPy array")
    datatype = "BYTES" if array.dtype == np.object_ else np_to_triton_dtype(array.dtype)
    if datatype is None:
        raise ParameterError(f"{name}: an array of {array.dtype}; accepted: numbers, true or false, or objects (bytes)")
    return datatype


def plain(name: str, value: Parameter) -> str | int | float | bool:
    """A parameter as the protocol has it: lists and mappings become JSON.

    Raises:
        ParameterError: it is of another type, or a whole number of more than 64 bits.
    """
    value = _without_numpy(name, value)
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, str):
        return to_utf8(name, value).decode()
    if isinstance(value, int) and not -_LIMIT <= value < _LIMIT:
        raise ParameterError(f"{name}: {value}; accepted: whole numbers from -2^63 to 2^63 - 1")
    return value


def _without_numpy(name: str, value: Any) -> Any:
    """`value` in Python's own types: bool, int, float, str, list or dict."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(_scalar(name, key)): _without_numpy(name, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numpy(name, item) for item in value]
    return _scalar(name, value)


def _scalar(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (str, int, float)):
        raise ParameterError(
            f"{name}: {_shown(value)} of type {type(value).__name__}; accepted: text, numbers, true or false, lists and "
            "mappings of them, NumPy's scalars and arrays, and None for what is not given"
        )
    return value


def to_bytes(name: str, value: Any) -> bytes:
    """A picture file's bytes.

    Raises:
        ParameterError: it is of another type.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ParameterError(
            f"{name}: {_shown(value)} of type {type(value).__name__}; accepted: bytes of a picture file"
        )
    return bytes(value)


def to_utf8(name: str, value: Any) -> bytes:
    """A text in UTF-8.

    Raises:
        ParameterError: it is of another type, or has half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise ParameterError(f"{name}: {_shown(value)} of type {type(value).__name__}; accepted: text (str)")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(f"{name}: {error.reason} at {error.start}; accepted: text that UTF-8 can carry") from None


def to_floats(name: str, value: Any) -> np.ndarray:
    """Numbers as a float32 tensor of their own shape.

    Raises:
        ParameterError: they are none, or ragged, or there are none: Triton 2.51 would never answer.
    """
    try:
        with np.errstate(over="ignore"):  # Becomes infinite, of which the server says what is accepted.
            found = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if not found.size:
        raise ParameterError(
            f"{name}: {_shown(value)} of type {type(value).__name__}; accepted: a sequence or an array of numbers, at least one"
        )
    return found


def to_list(value: Any, lone: type | tuple[type, ...]) -> list[Any]:
    """The elements of a list, tuple or array of objects; none of None, and `value` itself where it is a `lone` one."""
    if value is None:
        return []
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return value.ravel().tolist()
    return list(value) if isinstance(value, (list, tuple)) and not isinstance(value, lone) else [value]


def to_seconds(name: str, value: Any) -> float:
    """A number of seconds.

    Raises:
        ParameterError: it is none, or below 0.
    """
    seconds = float(value) if isinstance(value, numbers.Real) else math.nan
    if not seconds >= 0:
        raise ParameterError(f"{name}: {_shown(value)}; accepted: a number of seconds, or None for the client's own")
    return seconds


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _set_parameter(parameter: service_pb2.InferParameter, value: str | int | float | bool) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def to_arrays(response: service_pb2.ModelInferResponse) -> dict[str, np.ndarray]:
    """Output arrays by name; BYTES become object arrays of bytes."""
    pairs = zip(response.outputs, response.raw_output_contents)
    return {tensor.name: _to_array(tensor, raw) for tensor, raw in pairs}


def _to_array(tensor: service_pb2.ModelInferResponse.InferOutputTensor, raw: bytes) -> np.ndarray:
    if tensor.datatype == "BYTES":
        return np.array(_split_bytes(raw), dtype=np.object_).reshape(tensor.shape)
    return np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)


def _split_bytes(raw: bytes) -> list[bytes]:
    """Elements of a BYTES tensor: each is a little-endian uint32 length and that many bytes."""
    elements, offset = [], 0
    while offset < len(raw):
        length = int.from_bytes(raw[offset : offset + 4], "little")
        elements.append(raw[offset + 4 : offset + 4 + length])
        offset += 4 + length
    return elements
