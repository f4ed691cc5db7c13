"""What the guard lets pass: requests as bytes, in every order that a sender may choose, without a server."""

from __future__ import annotations

import random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reverie_client import requests
from tritonclient.grpc import service_pb2

from serving.door.guard.messages import DEEPEST_JSON, MOST_FIELDS, Refused, check, is_deep, unwrap
from tests.serving.harmful import HARMFUL, harmful

Request = service_pb2.ModelInferRequest


def refused(message: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        check(message)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "accepted" in caught.value.message
    return caught.value


def fields_of(request: Request) -> list[bytes]:
    """A message of one field each, which make `request` in whatever order they are put together."""
    parts = []
    for field, value in request.ListFields():
        if field.name == "parameters":
            values = [{key: value[key]} for key in value]
        else:
            values = [value] if isinstance(value, str) else [[element] for element in value]
        parts += [Request(**{field.name: value}).SerializeToString() for value in values]
    return parts


@pytest.mark.parametrize("name", HARMFUL)
def test_what_harms_triton_is_refused_with_what_is_accepted(name):
    refused(harmful(name).SerializeToString())


@pytest.mark.parametrize("name", HARMFUL)
def test_no_order_of_the_fields_hides_it(name):
    """A parser takes fields in any order, and those that repeat from any place."""
    parts = fields_of(harmful(name))
    rng = random.Random(name)
    for _ in range(10):
        rng.shuffle(parts)
        refused(b"".join(parts))


@pytest.mark.parametrize(
    "request_",
    [
        requests.stylize(bytes(100_000), None, {"styles": {"a": 1.0}}),
        requests.generate("This [[[ movie", {"stop": ["[[[["], "max_tokens": 5}),
        requests.score(""),
        requests.dream(b"x", b"y", {"layers": {"mixed4": 1.0}}),
    ],
    ids=["stylize", "generate", "score", "dream"],
)
def test_what_the_client_sends_passes(request_):
    check(request_.SerializeToString())


def test_numbers_in_contents_pass():
    request = Request(model_name="style")
    request.inputs.add(name="style_weights", datatype="FP32", shape=[1, 5]).contents.fp32_contents.extend([0.0] * 5)
    request.inputs.add(name="token_ids", datatype="INT64", shape=[2, 3]).contents.int64_contents.extend([0] * 6)
    check(request.SerializeToString())


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_request_or_refused(data):
    try:
        check(data)
    except Refused:
        return
    Request.FromString(data)


@given(st.lists(st.binary(max_size=30), max_size=5), st.text(max_size=20), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_tensors_are_measured_and_the_rest_is_parsed(raw, name, inputs):
    request = Request(model_name=name, raw_input_contents=raw)
    for index in range(inputs):
        request.inputs.add(name=str(index), shape=[index])
    found = unwrap(request.SerializeToString())
    assert found.raw_sizes == [len(part) for part in raw]
    del request.raw_input_contents[:]
    assert found.request == request


def test_fields_without_number_are_refused_before_they_are_parsed():
    refused(Request(model_name="m").SerializeToString() * (MOST_FIELDS + 1))


@pytest.mark.parametrize(
    "tail", [b"\x08\x01", b"\x42\x00", b"\x0a\x05abc", b"\xff" * 11, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_what_is_no_request_of_the_protocol_is_refused(tail):
    refused(Request(model_name="style").SerializeToString() + tail)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * (DEEPEST_JSON + 1), True),
        ("[" * DEEPEST_JSON + "]" * DEEPEST_JSON, False),
        ('{"a":' * 1_000, True),
        ("[1]," * 1_000, False),
        ('["' + "[" * 1_000 + '"]', False),
        ('["\\"' + "[" * 1_000 + '"]', False),
        ('"' + "[" * 1_000, True),
    ],
)
def test_only_json_that_is_nested_is_deep(text, expected):
    assert is_deep(text) is expected
