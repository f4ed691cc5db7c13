"""Requests that are almost right: a valid one of any model, changed in one to three places.

Case `number` of `seed` is the same at every run, so one that did harm can be sent again alone. Valid values of
parameters that make work (steps, sizes) are small ones: what is looked for are failures, not load.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel
from tritonclient.grpc import service_pb2

from loadtests.fuzz.pictures import picture
from serving.style.parameters import StylizeParameters
from serving.text.parameters import GenerateParameters
from synthesis.deepdream import DeepDreamParameters
from synthesis.gatys import GatysParameters

Request: TypeAlias = service_pb2.ModelInferRequest


@dataclass(frozen=True)
class Case:
    """A request, and how it is sent.

    Attributes:
        streams: it goes to ModelStreamInfer, else to ModelInfer.
        is_packed: it is compressed on its way.
        metadata: sent with it.
        patience: seconds after which the caller leaves without an answer; None for one who waits.
    """

    request: Request
    streams: bool
    is_packed: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    patience: float | None = None


@dataclass(frozen=True)
class _Model:
    """How a valid request of a model is made.

    Attributes:
        fill: adds the inputs.
        parameters: the table of its parameters.
        cheap: parameters that keep a valid request small.
    """

    fill: Callable[[Request, random.Random], None]
    parameters: type[BaseModel] | None = None
    cheap: tuple[tuple[str, int | float], ...] = ()
    streams: bool = False


_TEXTS = (
    b"This movie was",
    b"",
    b" ",
    b"\0",
    b"\xff\xfe not UTF-8",
    b"\xed\xa0\x80 a lone surrogate",
    "\U0001f600\u200d\U0001f525 \u05e9\u05dc\u05d5\u05dd".encode(),
    ("e\u0301" * 50).encode(),
    b"word " * 300,
    b"a" * 100_000,
    b"<|end|>[UNK]</s>",
    b'{"text_input": 1}',
)
_NUMBERS = (0, 1, 2, 7, 40, -1, -2, 2**31, 2**63 - 1, -(2**63))
_FLOATS = (0.0, 0.5, 1.0, 1.5, -0.0, -1.0, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"))
_DEEP = ("[" * 150_000, '{"a":' * 150_000, "[" * 65 + "]" * 65)
_STRINGS = (
    *_DEEP, "", "true", "1", "NaN", "[]", "{}", "null", '["a"]', '{"1": 5}', '{"a": NaN}', '{"starry_night": 1}', "[" * 2_000,
    "mixed4", '{"mixed4": 1.0}', '{"block1_conv1": -1}', "png", "jpeg", "starry_night", "../../etc/passwd", "\0", "x" * 10_000,
)  # fmt: skip
_COSTLY = {
    "iterations",
    "steps",
    "frames",
    "num_octave",
    "scales",
    "size",
    "octave_scale",
    "max_seconds",
    "tile",
    "smooth",
}
_SMALL = (1, 2, 64, 0, -1, 2**63 - 1, 1.5, "many")
_OF_THE_PROTOCOL = ("sequence_id", "sequence_start", "priority", "timeout", "binary_data_output", "triton_enable_empty_final_response")  # fmt: skip
_TYPES = ("BYTES", "FP32", "FP16", "BF16", "INT32", "INT64", "UINT8", "BOOL", "", "FLOAT", "bytes")
_SIZES = (0, 1, 2, 3, 16, 1_000, -1, 2**31, 2**32, 2**60, 2**62, 2**63 - 1)
_HEADERS = (("triton_grpc_error", "true"), ("reverie-client", "x" * 1_000), ("grpc-encoding", "snappy"), ("content-encoding", "gzip"))  # fmt: skip


def case(seed: int, number: int) -> Case:
    """Return case `number`; see the module's docstring."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choices(list(_MODELS), (5, 3, 6, 3, 3, 1, 1))[0]
    model = _MODELS[name]
    request = Request(model_name=name)
    model.fill(request, rng)
    for parameter, value in model.cheap:
        _set(request, parameter, value)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(request, model, rng)
    streams = model.streams if rng.random() < 0.98 else not model.streams
    metadata = (rng.choice(_HEADERS),) if rng.random() < 0.05 else ()
    patience = rng.choice((0.001, 0.01, 0.05)) if rng.random() < 0.02 else None
    return Case(request, streams, rng.random() < 0.02, metadata, patience)


# Valid inputs.


def _add(request: Request, name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)


def _strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def _text(request: Request, rng: random.Random) -> None:
    text = _TEXTS[0] if rng.random() < 0.5 else rng.choice(_TEXTS)
    _add(request, "text_input", "BYTES", (1,), _strings(text))


def _photo(request: Request, rng: random.Random) -> None:
    _add(request, "image", "BYTES", (1,), _strings(picture(rng)))


def _guided(request: Request, rng: random.Random) -> None:
    _photo(request, rng)
    if rng.random() < 0.3:
        _add(request, "guide_image", "BYTES", (1,), _strings(picture(rng)))


def _styled(request: Request, rng: random.Random) -> None:
    _photo(request, rng)
    styles = [picture(rng) for _ in range(rng.choice((1, 1, 2, 9)))]
    _add(request, "style_image", "BYTES", (len(styles),), _strings(*styles))
    if rng.random() < 0.3:
        _add(request, "style_mask", "BYTES", (len(styles),), _strings(*(picture(rng) for _ in styles)))


def _pixels(request: Request, rng: random.Random) -> None:
    batch, height, width = rng.choice((1, 1, 2)), rng.choice((16, 17, 40, 1)), rng.choice((16, 24, 33))
    _add(request, "image", "UINT8", (batch, height, width, 3), rng.randbytes(batch * height * width * 3))
    styles, name = rng.choice((5, 5, 5, 1, 0)), rng.choice(("style", "style_weights"))
    _add(request, name, "FP32", (batch, styles), _floats(rng, batch * styles))


def _floats(rng: random.Random, count: int) -> bytes:
    numbers = [rng.choice((1.0, 0.5, 0.0, -1.0, float("nan"), 1e38)) for _ in range(count)]
    return struct.pack(f"<{count}f", *numbers)


def _ids(request: Request, rng: random.Random) -> None:
    batch, length = rng.choice((1, 1, 3)), rng.choice((2, 1, 10, 256, 257, 0))
    ids = [
        rng.choice((0, 1, 5, 8_191, 8_192, -1, 2**31 - 1)) if rng.random() < 0.1 else 9 for _ in range(batch * length)
    ]
    _add(request, "token_ids", "INT32", (batch, length), struct.pack(f"<{len(ids)}i", *ids))


_MODELS = {
    "generate": _Model(_text, GenerateParameters, (("max_tokens", 5),), streams=True),
    "score": _Model(_text),
    "stylize": _Model(_photo, StylizeParameters),
    "style": _Model(_pixels),
    "language_model": _Model(_ids),
    "deepdream": _Model(_guided, DeepDreamParameters, (("iterations", 1), ("num_octave", 1), ("size", 64)), streams=True),
    "style_transfer": _Model(_styled, GatysParameters, (("steps", 1), ("size", 64)), streams=True),
}  # fmt: skip


# Changes.


def _set(request: Request, name: str, value: bool | int | float | str) -> None:
    field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
    setattr(request.parameters[name], field, value)


def _change_parameter(request: Request, model: _Model, rng: random.Random) -> None:
    known = list(model.parameters.model_fields) if model.parameters else []
    name = rng.choice([*known, *known, rng.choice(_OF_THE_PROTOCOL), "no_such_parameter"])
    _set(request, name, rng.choice(_SMALL if name in _COSTLY else (*_NUMBERS, *_FLOATS, *_STRINGS, True, False)))


def _change_type(request: Request, model: _Model, rng: random.Random) -> None:
    if request.inputs:
        rng.choice(request.inputs).datatype = rng.choice(_TYPES)


def _change_shape(request: Request, model: _Model, rng: random.Random) -> None:
    if request.inputs:
        shape = rng.choice(request.inputs).shape
        if shape and rng.random() < 0.7:
            shape[rng.randrange(len(shape))] = rng.choice(_SIZES)
        else:
            shape.extend(rng.choices(_SIZES, k=rng.choice((1, 2, 8))))


def _change_bytes(request: Request, model: _Model, rng: random.Random) -> None:
    if not request.raw_input_contents:
        return
    index = rng.randrange(len(request.raw_input_contents))
    raw = request.raw_input_contents[index]
    request.raw_input_contents[index] = rng.choice(
        (b"", raw[:-1], raw[: len(raw) // 2], raw + b"\0", raw + raw, struct.pack("<I", 2**32 - 1) + raw[4:], raw[:4])
    )


def _change_inputs(request: Request, model: _Model, rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0 and request.inputs:
        del request.inputs[-1]
    elif kind == 1 and request.raw_input_contents:
        del request.raw_input_contents[-1]
    elif kind == 2 and request.inputs:
        rng.choice(request.inputs).name = rng.choice(("", "image", "text_input", "no_such_input", "x" * 5_000))
    elif kind == 3:
        _add(request, rng.choice(("image", "stop", "no_such_input")), "BYTES", (1,), _strings(b"x"))
    elif request.inputs:
        changed = rng.choice(request.inputs)
        changed.contents.bytes_contents.append(b"x")
        changed.contents.fp32_contents.extend([1.0, float("nan")])


def _change_address(request: Request, model: _Model, rng: random.Random) -> None:
    if rng.random() < 0.8:
        request.model_version = rng.choice(("1", "0", "99", "-1", "abc", "18446744073709551616"))
    else:
        request.model_name = rng.choice(("", "no_such_model", "../style", "generate\0", "x" * 5_000))
    request.id = rng.choice(("", "7", "x" * 5_000, "\u200f"))


def _change_outputs(request: Request, model: _Model, rng: random.Random) -> None:
    output = request.outputs.add(name=rng.choice(("stylized", "text_output", "image", "logprob", "", "no_such_output")))
    kind = rng.randrange(4)
    if kind == 0:
        output.parameters["classification"].int64_param = rng.choice((0, 1, 3, -1, 2**40))
    elif kind == 1:
        output.parameters["shared_memory_region"].string_param = "no_such_region"
        output.parameters["shared_memory_byte_size"].int64_param = rng.choice((0, 64, -1))


def _share_memory(request: Request, model: _Model, rng: random.Random) -> None:
    if request.inputs:
        parameters = rng.choice(request.inputs).parameters
        parameters["shared_memory_region"].string_param = rng.choice(("no_such_region", "", "/dev/shm/x"))
        parameters["shared_memory_byte_size"].int64_param = rng.choice((0, 64, -1, 2**62))
        parameters["shared_memory_offset"].int64_param = rng.choice((0, -1, 2**62))


_CHANGES = (
    _change_parameter,
    _change_parameter,
    _change_parameter,
    _change_type,
    _change_shape,
    _change_bytes,
    _change_inputs,
    _change_address,
    _change_outputs,
    _share_memory,
)
