"""Jobs that take turns, and messages that leave from a thread of their own; no Triton needed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from imaging import images
from reverie.errors import Cancelled
from serving.python_backend.background_sender import QUEUED_MESSAGES, BackgroundSender, encode_preview
from serving.python_backend.fair_share import CREDIT_TURNS, SHORT_RATE, TURN_SECONDS, FairShareScheduler, Slot
from synthesis.progress import Progress


def record(step: int, image: np.ndarray | None = None, frame: int = 0) -> Progress:
    return Progress(step=step, steps=9, stage=0, loss=1.0, seconds=0.0, image=image, frame=frame)


def test_a_short_job_ends_while_a_long_one_goes_on():
    turnstile, order = FairShareScheduler(turn_seconds=0.001), []

    def short() -> None:
        with turnstile.job() as turn:
            for _ in range(3):
                order.append("short")
                turn.yield_slot()

    thread = threading.Thread(target=short, daemon=True)
    with turnstile.job() as turn:
        thread.start()
        while thread.is_alive():
            order.append("long")
            turn.yield_slot()
    assert order.count("short") == 3


def waiting(turnstile: FairShareScheduler, used: dict[str, tuple[float, ...]]) -> list[Slot]:
    """Jobs of clients that have had so many seconds each."""
    made = [Slot(turnstile, client) for client, jobs in used.items() for _ in jobs]
    for turn, turn.used in zip(made, itertools.chain(*used.values()), strict=True):
        turnstile._jobs.append(turn)
        turnstile._waiting.append(turn)
    turnstile._used = {client: sum(jobs) for client, jobs in used.items()}
    return made


def test_the_job_that_has_had_the_least_time_goes_next():
    turnstile = FairShareScheduler()
    jobs = waiting(turnstile, {"": (3.0, 1.0, 2.0)})
    assert turnstile._next() is jobs[1]


def test_the_client_that_has_had_the_least_time_goes_next_however_many_jobs_it_has():
    turnstile = FairShareScheduler()
    *_, lone = waiting(turnstile, {"greedy": (1.0,) * 6, "lone": (5.0,)})
    assert turnstile._next() is lone


@pytest.mark.parametrize("client", ["", "another"])
def test_a_newcomer_starts_level_with_those_that_are_there(client):
    turnstile = FairShareScheduler()
    waiting(turnstile, {"": (100.0,)})
    newcomer = Slot(turnstile, client)
    turnstile._join(newcomer)
    assert newcomer.used == (0.0 if client else 100.0)
    assert turnstile._used[client] == (100.0 - CREDIT_TURNS * TURN_SECONDS if client else 100.0)


def test_the_beginning_of_a_job_counts_less_than_the_rest():
    turnstile = FairShareScheduler(turn_seconds=1.0)
    (turn,) = waiting(turnstile, {"": (0.0,)})
    turnstile._charge(turn, 20.0)
    assert turnstile._used == {"": pytest.approx(20.0 * SHORT_RATE)}
    turnstile._charge(turn, 5.0)
    assert turnstile._used == {"": pytest.approx(20.0 * SHORT_RATE + 5.0)}


def test_a_client_that_comes_back_has_not_had_less_than_it_had():
    turnstile = FairShareScheduler()
    waiting(turnstile, {"": (100.0,)})
    turnstile._used |= {"back": 99.9, "long ago": 3.0}
    turnstile._join(Slot(turnstile, "back"))
    assert turnstile._used == {"": 100.0, "back": 99.9}


def test_a_turn_is_time_and_not_a_step():
    turnstile, steps = FairShareScheduler(turn_seconds=3600.0), []
    with turnstile.job() as turn:
        thread, _ = start(turnstile, lambda: steps.append("other"))
        for _ in range(100):
            turn.yield_slot()
        assert not steps
        turn._entered -= 3601
        turn.used = turnstile._used[""] = 2.0
        turn.yield_slot()
        assert steps == ["other"]
    thread.join(10)


def test_a_job_that_waits_ends_when_its_caller_leaves():
    turnstile, left = FairShareScheduler(), threading.Event()

    def check() -> None:
        if left.is_set():
            raise Cancelled

    with turnstile.job():
        thread, raised = start(turnstile, lambda: None, check)
        left.set()
        thread.join(2)
        assert [type(error) for error in raised] == [Cancelled]
        assert turnstile._waiting == []


def test_a_job_that_computes_learns_at_a_checkpoint_that_its_caller_has_left():
    def check() -> None:
        raise Cancelled

    turnstile = FairShareScheduler()
    with pytest.raises(Cancelled), turnstile.job("", check):
        while True:
            turnstile.checkpoint()


def test_inside_a_large_call_small_jobs_may_go_and_other_large_ones_wait():
    turnstile, order = FairShareScheduler(turn_seconds=0.0), []

    def large() -> None:
        with turnstile.large_call():
            order.append("large")

    with turnstile.job("a") as turn:
        with turnstile.large_call():
            others = [
                start(turnstile, act, client=c)[0]
                for c, act in {"b": large, "c": lambda: order.append("small")}.items()
            ]
            while "small" not in order:
                turnstile._used["a"] = 100.0
                # From another thread, as TensorFlow does.
                inside = threading.Thread(target=turnstile.checkpoint_inside, daemon=True)
                inside.start()
                inside.join(10)
            assert order == ["small"]
        assert turn.makes_large_calls
        turnstile.checkpoint()
        assert order == ["small", "large"]
    for thread in others:
        thread.join(10)


def start(
    turnstile: FairShareScheduler, act: Callable[[], None], check: Callable[[], None] = lambda: None, client: str = ""
) -> tuple[threading.Thread, list[BaseException]]:
    """A job in a thread of its own that waits for its turn, and what it has raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with turnstile.job(client, check):
                act()
        except Cancelled as error:
            raised.append(error)

    thread, before = threading.Thread(target=work, daemon=True), len(turnstile._waiting)
    thread.start()
    while len(turnstile._waiting) == before:
        time.sleep(0.001)
    return thread, raised


def test_only_one_job_computes_at_a_time():
    turnstile, inside, most = FairShareScheduler(), [], []

    def work() -> None:
        with turnstile.job() as turn:
            for _ in range(20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                turn.yield_slot()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 80
    assert max(most) == 1


def test_a_job_that_fails_lets_the_others_through():
    turnstile = FairShareScheduler()
    with pytest.raises(Cancelled), turnstile.job():
        raise Cancelled
    with turnstile.job():
        pass
    assert turnstile._jobs == []


def test_messages_keep_their_order_and_all_are_sent_when_the_block_ends():
    sent: list[int] = []
    with BackgroundSender(lambda progress: sent.append(progress.step)) as sender:
        for step in range(20):
            sender.send(record(step))
    assert sent == list(range(20))


def test_encoding_does_not_hold_up_the_steps():
    may_send = threading.Event()
    with BackgroundSender(lambda progress: (may_send.wait(10), None)[1]) as sender:
        for step in range(QUEUED_MESSAGES):
            sender.send(record(step))  # returns though nothing can be sent yet
        may_send.set()


def test_a_caller_that_is_gone_ends_the_job_at_its_next_step():
    tried = threading.Event()

    def send(progress: Progress) -> None:
        tried.set()
        raise Cancelled

    with pytest.raises(Cancelled), BackgroundSender(send) as sender:
        sender.send(record(1))
        tried.wait(10)
        sender._sent[0].exception(10)
        sender.send(record(2))
        pytest.fail("the second step went on")


def test_previews_have_the_size_asked_for_and_frames_stay_whole():
    image = np.zeros((60, 90, 3), np.uint8)
    assert encode_preview(record(1), 30) == b""
    assert images.decode(encode_preview(record(1, image), 30)).shape == (20, 30, 3)
    assert images.decode(encode_preview(record(1, image), 0)).shape == image.shape
    assert images.decode(encode_preview(record(1, image, frame=2), 30)).shape == image.shape
