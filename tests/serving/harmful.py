"""Requests that harm Triton 2.51 or may, by name: what the door is for. None of them is ever sent past it."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tritonclient.grpc import service_pb2

Request = service_pb2.ModelInferRequest


def _text(model: str = "score", value: bytes = b"This movie") -> Request:
    request = Request(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
    return request


def _classified(output: str, model: str, name: str = "image") -> Request:
    request = _text(model)
    request.inputs[0].name = name if model == "stylize" else "text_input"
    request.outputs.add(name=output).parameters["classification"].int64_param = 1
    return request


def _shaped(*shape: int, model: str = "style", raw: bytes = b"") -> Request:
    request = Request(model_name=model)
    name, datatype = ("image", "UINT8") if model == "style" else ("token_ids", "INT32")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)
    return request


def _of_two_inputs(*shape: int) -> Request:
    request = _shaped(1, 16, 16, 3, raw=bytes(768))
    request.inputs.add(name="style_weights", datatype="FP32", shape=shape)
    request.raw_input_contents.append(b"")
    return request


def _shared(where: str) -> Request:
    request = _text()
    tensor = request.inputs[0] if where == "input" else request.outputs.add(name="logprob")
    tensor.parameters["shared_memory_region"].string_param = "triton_python_backend_shm_region_1"
    tensor.parameters["shared_memory_byte_size"].int64_param = 2**40
    return request


def _with(name: str, value: str) -> Request:
    request = _text("generate")
    request.parameters[name].string_param = value
    return request


def _many(kind: str, count: int) -> Request:
    request = _text()
    for index in range(count):
        if kind == "parameters":
            request.parameters[str(index)].int64_param = index
        else:
            getattr(request, kind).add(name=str(index), **({"shape": [1]} if kind == "inputs" else {}))
    return request


_MAKERS: dict[str, Callable[[], Request]] = {
    "classification_of_a_text": lambda: _classified("tokens", "score"),
    "classification_of_a_picture": lambda: _classified("stylized", "stylize"),
    "classification_of_numbers": lambda: _classified("logprob", "score"),
    "classification_as_text": lambda: _with_text_class(),
    "a_batch_of_0": lambda: _shaped(0, 16, 16, 3),
    "an_empty_side": lambda: _shaped(1, 0, model="language_model"),
    "an_empty_second_input": lambda: _of_two_inputs(0, 5),
    "a_batch_of_0_in_32_bits": lambda: _shaped(2**32, 16, 16, 3),
    "a_size_that_overflows": lambda: _shaped(2**62, 4, 4, 3),
    "a_size_that_overflows_to_what_was_sent": lambda: _shaped(2**32, 2**32, 1, 1, raw=b"x"),
    "a_size_below_0": lambda: _shaped(-1, 16, 16, 3),
    "sizes_below_0_whose_product_is_not": lambda: _shaped(1, -16, -16, 3, raw=bytes(768)),
    "a_picture_that_did_not_come": lambda: _shaped(1, 100_000, 100_000, 3, raw=bytes(768)),
    "sides_without_number": lambda: _shaped(*[1] * 10_000, raw=b"x"),
    "memory_of_others_as_input": lambda: _shared("input"),
    "memory_of_others_as_output": lambda: _shared("output"),
    "deep_lists": lambda: _with("stop", "[" * 150_000 + "]" * 150_000),
    "deep_objects": lambda: _with("logit_bias", '{"a":' * 150_000 + "1" + "}" * 150_000),
    "a_parameter_of_megabytes": lambda: _with("stop", "x" * (2**20 + 1)),
    "a_parameter_that_says_who_calls": lambda: _with("reverie-client", "somebody else"),
    "parameters_without_number": lambda: _many("parameters", 1_000),
    "inputs_without_number": lambda: _many("inputs", 1_000),
    "outputs_without_number": lambda: _many("outputs", 1_000),
}
HARMFUL = tuple(_MAKERS)


def _with_text_class() -> Request:
    request = _text()
    request.outputs.add(name="tokens").parameters["classification"].string_param = "1"
    return request


def harmful(name: str) -> Request:
    """The request of that name, one of `HARMFUL`."""
    return _MAKERS[name]()
