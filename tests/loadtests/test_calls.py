"""One request, made against clients that answer as told."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from reverie_client import PictureStep, ReverieError, Score, TextDelta

from imaging import images
from loadtests.calls import Outcome, make_call
from loadtests.endpoints import Endpoint, Message, photograph

JPEG = images.encode(photograph(64, 96, seed=1), "jpeg")
STEP = PictureStep(1, 2, 0, 0.5, 0.1, b"", done=False)


def made(*messages: Message | Exception, scheduled_s: float | None = None):
    """The call to an endpoint that sends `messages`; a second passes between any two looks at the clock."""

    def request(client: object, rng: random.Random) -> Iterator[Message]:
        for message in messages:
            if isinstance(message, Exception):
                raise message
            yield message

    ticks = iter(range(100, 200))
    endpoint = Endpoint("generate", request, weight=1)
    return make_call(endpoint, None, 0, scheduled_s, lambda: float(next(ticks)))  # type: ignore[arg-type]


def test_a_stream_is_timed_message_by_message_from_its_scheduled_time():
    call = made(TextDelta("a", ""), TextDelta("bc", "length"), scheduled_s=99.0)
    assert (call.started_s, call.message_s, call.finished_s) == (100.0, (101.0, 102.0), 103.0)
    assert (call.first_message_ms, call.between_messages_ms, call.milliseconds) == (2000, [1000], 4000)
    assert call.received_bytes == 3 and call.outcome is Outcome.ANSWERED


def test_without_a_schedule_a_call_is_due_when_it_is_sent():
    assert made(TextDelta("a", "stop")).lag_ms == 0


@pytest.mark.parametrize(
    ("message", "pixels"),
    [
        (JPEG, 64 * 96),
        (PictureStep(2, 2, 0, 0.5, 0.1, JPEG, done=True), 64 * 96),
        (np.zeros((8, 16, 3), np.uint8), 128),
        (Score(-1.0, [b"a"], [-1.0]), 0),
    ],
)
def test_pixels_are_those_of_the_resulting_picture(message: Message, pixels: int):
    call = made(message)
    assert (call.pixels, call.error) == (pixels, "")
    assert call.received_bytes > 0


@pytest.mark.parametrize("messages", [(), (TextDelta("a", ""),), (STEP,), (b"",), (Score(0.0, [], []),)])
def test_an_answer_without_its_last_message_is_a_failure(messages: tuple[Message, ...]):
    assert made(*messages).error == "the answer ended before its last message"


def test_a_refusal_is_told_by_its_status():
    call = made(ReverieError(grpc.StatusCode.UNAVAILABLE, "the queue is full"))
    assert (call.error, call.outcome) == ("UNAVAILABLE: the queue is full", Outcome.REFUSED)


def test_whatever_goes_wrong_is_the_calls_error():
    assert made(TextDelta("a", ""), ValueError()).error == "ValueError"


def test_a_clock_can_be_given_another_zero():
    call = made(TextDelta("a", "stop"), scheduled_s=99.0).since(99.0)
    assert (call.scheduled_s, call.started_s, call.message_s, call.finished_s) == (0.0, 1.0, (2.0,), 3.0)
