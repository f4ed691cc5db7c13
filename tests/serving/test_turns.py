"""Jobs that take turns, and messages that leave from a thread of their own; no Triton needed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from serving.models.outbox import QUEUED_MESSAGES, Outbox, encode_preview
from serving.models.turns import Turn, Turnstile
from synthesis import images
from synthesis.progress import Cancelled, Progress


def record(step: int, image: np.ndarray | None = None, frame: int = 0) -> Progress:
    return Progress(step=step, steps=9, stage=0, loss=1.0, seconds=0.0, image=image, frame=frame)


def test_a_short_job_ends_while_a_long_one_goes_on():
    turnstile, order = Turnstile(), []

    def short() -> None:
        with turnstile.job() as turn:
            for _ in range(3):
                order.append("short")
                turn.pass_on()

    thread = threading.Thread(target=short, daemon=True)
    with turnstile.job() as turn:
        thread.start()
        while thread.is_alive():
            order.append("long")
            turn.pass_on()
    assert order.count("short") == 3


def test_the_job_that_has_had_the_least_time_goes_next():
    turnstile = Turnstile()
    turns = [Turn(turnstile) for _ in range(3)]
    for turn, turn.used in zip(turns, (3.0, 1.0, 2.0), strict=True):
        turnstile._waiting.append(turn)
    assert turnstile._next() is turns[1]


def test_a_newcomer_starts_level_with_those_that_are_there():
    turnstile, found = Turnstile(), []

    def newcomer() -> None:
        with turnstile.job() as turn:
            found.append(turn.used)

    with turnstile.job() as first:
        first.used = 100.0
        thread = threading.Thread(target=newcomer, daemon=True)
        thread.start()
        while not turnstile._waiting:
            time.sleep(0.001)
    thread.join(10)
    assert found == [100.0]


def test_only_one_job_computes_at_a_time():
    turnstile, inside, most = Turnstile(), [], []

    def work() -> None:
        with turnstile.job() as turn:
            for _ in range(20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                turn.pass_on()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 80
    assert max(most) == 1


def test_a_job_that_fails_lets_the_others_through():
    turnstile = Turnstile()
    with pytest.raises(Cancelled), turnstile.job():
        raise Cancelled
    with turnstile.job():
        pass
    assert turnstile._jobs == []


def test_messages_keep_their_order_and_all_are_sent_when_the_block_ends():
    sent: list[int] = []
    with Outbox(lambda progress: sent.append(progress.step)) as outbox:
        for step in range(20):
            outbox.put(record(step))
    assert sent == list(range(20))


def test_encoding_does_not_hold_up_the_steps():
    may_send = threading.Event()
    with Outbox(lambda progress: (may_send.wait(10), None)[1]) as outbox:
        for step in range(QUEUED_MESSAGES):
            outbox.put(record(step))  # returns though nothing can be sent yet
        may_send.set()


def test_a_caller_that_is_gone_ends_the_job_at_its_next_step():
    tried = threading.Event()

    def send(progress: Progress) -> None:
        tried.set()
        raise Cancelled

    with pytest.raises(Cancelled), Outbox(send) as outbox:
        outbox.put(record(1))
        tried.wait(10)
        outbox._sent[0].exception(10)
        outbox.put(record(2))
        pytest.fail("the second step went on")


def test_previews_have_the_size_asked_for_and_frames_stay_whole():
    image = np.zeros((60, 90, 3), np.uint8)
    assert encode_preview(record(1), 30) == b""
    assert images.decode(encode_preview(record(1, image), 30)).shape == (20, 30, 3)
    assert images.decode(encode_preview(record(1, image), 0)).shape == image.shape
    assert images.decode(encode_preview(record(1, image, frame=2), 30)).shape == image.shape
