"""The protocol's messages: arrays and parameters to protobuf, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

Parameter = str | int | float | bool


def bytes_tensor(value: bytes) -> np.ndarray:
    """A BYTES tensor of one element."""
    return np.array([value], dtype=np.object_)


def to_request(
    model: str, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Parameter], version: str = ""
) -> service_pb2.ModelInferRequest:
    """An inference request; object arrays travel as BYTES."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        datatype = "BYTES" if array.dtype == np.object_ else np_to_triton_dtype(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        request.raw_input_contents.append(raw)
    for name, value in parameters.items():
        _set_parameter(request.parameters[name], value)
    return request


def _set_parameter(parameter: service_pb2.InferParameter, value: Parameter) -> None:
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
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
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
