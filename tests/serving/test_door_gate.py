"""What of a stream's bytes may go on, and when: without a server."""

from __future__ import annotations

import itertools
import struct

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.door.guard.gate import HELD, Gate
from serving.door.guard.messages import Refused

MOST = 4 * HELD


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)


def no_evil(message: bytes) -> None:
    if message.endswith(b"evil"):
        raise Refused("evil; accepted: good")


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=20))
@settings(max_examples=200, deadline=None)
def test_good_messages_go_on_as_they_came_however_they_are_cut(messages, cuts):
    seen: list[bytes] = []
    gate = Gate(seen.append, MOST)
    assert b"".join(gate.take(piece) for piece in pieces_of(framed(*messages), cuts)) == framed(*messages)
    assert seen == messages


@given(st.binary(max_size=40), st.lists(st.integers(0, 300), max_size=20))
@settings(max_examples=200, deadline=None)
def test_of_a_small_message_nothing_goes_on_before_it_is_checked(start, cuts):
    gate, gone = Gate(no_evil, MOST), b""
    with pytest.raises(Refused):
        for piece in pieces_of(framed(start + b"evil"), cuts):
            gone += gate.take(piece)
    assert gone == b"" and not gate.is_torn


def test_of_a_large_message_the_last_piece_is_held_until_it_is_checked():
    whole = framed(bytes(3 * HELD) + b"evil")
    gate, gone = Gate(no_evil, MOST), 0
    with pytest.raises(Refused):
        for begin in range(0, len(whole), 16_384):
            gone += len(gate.take(whole[begin : begin + 16_384]))
    assert len(whole) - 16_384 <= gone < len(whole)
    assert gate.is_torn and not gate.has_passed


@pytest.mark.parametrize(
    ("head", "code"),
    [(b"\1\0\0\0\1", "UNIMPLEMENTED"), (b"\0\xff\xff\xff\xff", "RESOURCE_EXHAUSTED")],
    ids=["compressed", "too large"],
)
def test_a_head_is_refused_before_its_message_comes(head, code):
    with pytest.raises(Refused) as caught:
        Gate(no_evil, MOST).take(head)
    assert caught.value.code is grpc.StatusCode[code]


def test_a_message_in_crumbs_is_refused_and_many_small_messages_are_not():
    gate, crumbs = Gate(no_evil, MOST), framed(bytes(10_000))
    with pytest.raises(Refused, match="pieces"):
        for index in range(1_000):
            gate.take(crumbs[index : index + 1])
    patient = Gate(no_evil, MOST)
    for _ in range(1_000):
        assert patient.take(framed(b"good")) == framed(b"good")
