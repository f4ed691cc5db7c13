"""Jobs that take turns, and messages that leave from a thread of their own; no Triton needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

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
    scheduler, order = FairShareScheduler(turn_seconds=0.001), []

    def short() -> None:
        with scheduler.job() as slot:
            for _ in range(3):
                order.append("short")
                slot.yield_slot()

    thread = threading.Thread(target=short, daemon=True)
    with scheduler.job() as slot:
        thread.start()
        while thread.is_alive():
            order.append("long")
            slot.yield_slot()
    assert order.count("short") == 3


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, slot: Slot, seconds: float) -> None:
        """Let a job compute."""
        self.now += seconds
        slot.charge()


def run_together(jobs: list[tuple[str, float]]) -> tuple[list[int], list[dict[str, float]]]:
    """Run jobs of 6 steps each, of these clients and so many seconds a step, which give way after each.

    Returns:
        For each step, the job that made it, and the seconds that the clients had had before it.
    """
    clock = Clock()
    scheduler, made, used = FairShareScheduler(turn_seconds=0.0, clock=clock), [], []

    def job(index: int, seconds: float) -> None:
        for _ in range(6):
            made.append(index)
            used.append(scheduler.used)
            clock.now += seconds
            scheduler.checkpoint()

    with scheduler.job("first"):
        threads = [start(scheduler, partial(job, i, s), client=c)[0] for i, (c, s) in enumerate(jobs)]
    for thread in threads:
        thread.join(10)
    return made, used


def test_the_job_that_has_had_the_least_time_goes_next():
    seconds = [3.0, 1.0, 2.0]
    made, _ = run_together([("", s) for s in seconds])
    for step, index in enumerate(made):
        had = [made[:step].count(job) * s for job, s in enumerate(seconds)]
        assert had[index] == min(h for job, h in enumerate(had) if made[:step].count(job) < 6)


def test_the_client_that_has_had_the_least_time_goes_next_however_many_jobs_it_has():
    clients = ["greedy"] * 4 + ["lone"]
    made, used = run_together([(client, 1.0) for client in clients])
    for index, had in zip(made[: made.index(4)], used, strict=False):
        assert had[clients[index]] == min(had["greedy"], had["lone"])
    first = [clients[index] for index in made[:12]]
    assert first.count("lone") == 6  # of as many of the four together


@pytest.mark.parametrize("client", ["", "another"])
def test_a_newcomer_starts_level_with_those_that_are_there(client):
    clock = Clock()
    scheduler = FairShareScheduler(clock=clock)
    with scheduler.job() as slot:
        clock.work(slot, 300.0)
        had = scheduler.used[""]
        thread, _ = start(scheduler, lambda: None, client=client)
        assert scheduler.used[client] == (had - CREDIT_TURNS * TURN_SECONDS if client else had)
    thread.join(10)


def test_the_beginning_of_a_job_counts_less_than_the_rest():
    clock = Clock()
    scheduler = FairShareScheduler(turn_seconds=1.0, clock=clock)
    with scheduler.job() as slot:
        clock.work(slot, 20.0)
        assert scheduler.used == {"": pytest.approx(20.0 * SHORT_RATE)}
        clock.work(slot, 5.0)
        assert scheduler.used == {"": pytest.approx(20.0 * SHORT_RATE + 5.0)}


def test_a_client_that_comes_back_has_not_had_less_than_it_had():
    clock = Clock()
    scheduler = FairShareScheduler(clock=clock)

    def let_work(slot: Slot, client: str, seconds: float) -> None:
        def work() -> None:
            clock.now += seconds

        thread, _ = start(scheduler, work, client=client)
        slot.yield_slot(must=True)
        thread.join(10)

    with scheduler.job() as slot:
        let_work(slot, "long ago", 3.0)
        clock.work(slot, 300.0)
        let_work(slot, "back", 2.0)
        had = scheduler.used
        assert set(had) == {"", "back"}
        let_work(slot, "back", 0.0)
        assert scheduler.used == had


def test_a_turn_is_time_and_not_a_step():
    clock = Clock()
    scheduler, steps = FairShareScheduler(turn_seconds=3600.0, clock=clock), []
    with scheduler.job() as slot:
        thread, _ = start(scheduler, lambda: steps.append("other"))
        for _ in range(100):
            slot.yield_slot()
        assert not steps
        clock.work(slot, 3601.0)
        slot.yield_slot()
        assert steps == ["other"]
    thread.join(10)


def test_a_job_that_waits_ends_when_its_caller_leaves():
    scheduler, left = FairShareScheduler(), threading.Event()

    def check() -> None:
        if left.is_set():
            raise Cancelled

    with scheduler.job():
        thread, raised = start(scheduler, lambda: None, check)
        left.set()
        thread.join(2)
        assert [type(error) for error in raised] == [Cancelled]
        assert scheduler.waiting == 0


def test_a_job_that_computes_learns_at_a_checkpoint_that_its_caller_has_left():
    def check() -> None:
        raise Cancelled

    scheduler = FairShareScheduler()
    with pytest.raises(Cancelled), scheduler.job("", check):
        while True:
            scheduler.checkpoint()


def test_inside_a_large_call_small_jobs_may_go_and_other_large_ones_wait():
    clock = Clock()
    scheduler, order = FairShareScheduler(turn_seconds=0.0, clock=clock), []

    def large() -> None:
        with scheduler.large_call():
            order.append("large")

    with scheduler.job("a") as slot:
        with scheduler.large_call():
            others = [
                start(scheduler, act, client=c)[0]
                for c, act in {"b": large, "c": lambda: order.append("small")}.items()
            ]
            while "small" not in order:
                clock.now += 1.0
                # From another thread, as TensorFlow does.
                inside = threading.Thread(target=scheduler.checkpoint_inside, daemon=True)
                inside.start()
                inside.join(10)
            assert order == ["small"]
        assert slot.makes_large_calls
        scheduler.checkpoint()
        assert order == ["small", "large"]
    for thread in others:
        thread.join(10)


def start(
    scheduler: FairShareScheduler, act: Callable[[], None], check: Callable[[], None] = lambda: None, client: str = ""
) -> tuple[threading.Thread, list[BaseException]]:
    """A job in a thread of its own that waits for its turn, and what it has raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with scheduler.job(client, check):
                act()
        except Cancelled as error:
            raised.append(error)

    thread, before = threading.Thread(target=work, daemon=True), scheduler.waiting
    thread.start()
    while scheduler.waiting == before:
        time.sleep(0.001)
    return thread, raised


def test_only_one_job_computes_at_a_time():
    scheduler, inside, most = FairShareScheduler(), [], []

    def work() -> None:
        with scheduler.job() as slot:
            for _ in range(20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                slot.yield_slot()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 80
    assert max(most) == 1


def test_a_job_that_fails_lets_the_others_through():
    scheduler = FairShareScheduler()
    with pytest.raises(Cancelled), scheduler.job():
        raise Cancelled
    with scheduler.job():
        pass
    assert scheduler.jobs == 0


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
        while sender.pending:
            time.sleep(0.001)
        sender.send(record(2))
        pytest.fail("the second step went on")


def test_previews_have_the_size_asked_for_and_frames_stay_whole():
    image = np.zeros((60, 90, 3), np.uint8)
    assert encode_preview(record(1), 30) == b""
    assert images.decode(encode_preview(record(1, image), 30)).shape == (20, 30, 3)
    assert images.decode(encode_preview(record(1, image), 0)).shape == image.shape
    assert images.decode(encode_preview(record(1, image, frame=2), 30)).shape == image.shape
