"""What one greedy client leaves to the others, on the running server; and places of those who have left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from reverie_client import Client, ReverieError

from imaging import images
from tests.conftest import PICTURES

CALLS = 20
LEAST_SECONDS = 0.02
"""Shorter calls count as so long: what they take is not Reverie's work, and is all noise where two cores are busy."""
ATTEMPTS = 3
"""The best counts: what else runs on this machine only makes calls longer."""
PLACES = 6
"""Of one client, for dreams."""


@pytest.fixture(scope="module")
def large() -> bytes:
    """A photograph of 4096 pixels a side as JPEG bytes."""
    return images.encode(images.resize(images.read(PICTURES / "cat.jpg"), 4096, 4096), "jpeg", 50)


@pytest.fixture
def greedy(server) -> Iterator[Client]:
    with Client(server.address.grpc, name="greedy") as connection:
        yield connection


@pytest.fixture
def bystander(server) -> Iterator[Client]:
    with Client(server.address.grpc, name="bystander") as connection:
        yield connection


@contextlib.contextmanager
def repeated(call: Callable[[], object], at_once: int) -> Iterator[None]:
    """Make a call again and again from so many threads while the block runs; refusals are no failure."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                call()
            except ReverieError:
                stop.wait(0.05)  # A caller in a hurry, but not one that only makes refusals.

    with ThreadPoolExecutor(at_once) as pool:
        done = [pool.submit(work) for _ in range(at_once)]
        try:
            time.sleep(0.5)  # Until they have filled what there is.
            yield
        finally:
            stop.set()
    for future in done:
        future.result()


def p95(call: Callable[[], object], calls: int = CALLS) -> float:
    """Seconds that 19 of 20 calls take at most, or `LEAST_SECONDS`."""
    seconds = []
    for _ in range(calls):
        began = time.monotonic()
        call()
        seconds.append(time.monotonic() - began)
    return max(float(np.quantile(seconds, 0.95)), LEAST_SECONDS)


def slowdown(call: Callable[[], object], others: Callable[[], contextlib.AbstractContextManager]) -> float:
    """How many times as long a call takes beside others, at best of `ATTEMPTS`."""
    call()
    found = []
    for _ in range(ATTEMPTS):
        alone = p95(call)
        with others():
            found.append(p95(call) / alone)
        if found[-1] < 3:
            break
    return min(found)


def test_a_hundred_continuations_leave_a_bystander_its_answers(greedy, bystander):
    def ask() -> None:
        assert list(bystander.generate("This movie was", max_tokens=16, ignore_eos=True))

    def take_all() -> None:
        list(greedy.generate("This movie was", n=128, max_tokens=200, ignore_eos=True, timeout=2))

    assert slowdown(ask, lambda: repeated(take_all, 4)) < 3


def test_long_scores_leave_a_bystander_its_answers(greedy, bystander):
    def ask() -> None:
        assert bystander.score("This movie was great").logprob < 0

    long = "the movie was good and i liked it very much indeed " * 300
    assert slowdown(ask, lambda: repeated(lambda: greedy.score(long), 7)) < 3


def test_long_stop_strings_are_refused_with_what_is_accepted(client):
    tensors = {"text_input": np.array([b"This movie was"], np.object_)}
    with pytest.raises(ReverieError) as caught:
        list(
            client.stream("generate", tensors | {"stop": np.array([b"x" * 2**20] * 16, np.object_)}, {}, lambda m: [m])
        )
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "each should have 1 to 1000" in caught.value.message


def test_a_small_dream_does_not_wait_for_large_ones(greedy, bystander, large, photo):
    def ask() -> None:
        assert list(bystander.dream(photo, size=160, num_octave=1, iterations=3, max_loss=0))[-1].done

    ask()
    alone = p95(ask, 3)
    streams = [greedy.dream(large, size=1536, num_octave=1, iterations=500) for _ in range(2)]
    next(streams[0])  # The first step of one is done; thousands of tiles are left.
    beside = p95(ask, 3)
    for stream in streams:
        stream.cancel()
    assert beside < 3 * max(alone, 0.2)  # Two of the convolutions that it may have to wait for take that long.


def test_callers_who_leave_free_their_places_within_two_seconds(bystander, large, photo):
    streams = [bystander.dream(large, size=4096, num_octave=8, iterations=20, octave_scale=1.3) for _ in range(PLACES)]
    next(streams[0])
    with pytest.raises(ReverieError, match=f"{PLACES} requests of client 'bystander'"):
        next(bystander.dream(photo))
    for stream in streams:
        stream.cancel()
    time.sleep(2)
    accepted = [bystander.dream(photo, size=160, num_octave=1, iterations=1) for _ in range(PLACES)]
    assert all(list(stream)[-1].done for stream in accepted)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"size": 4096, "num_octave": 8, "iterations": 1000, "frames": 1000},
            "size, num_octave, octave_scale, iterations, frames: together 3.4",
        ),
        ({"max_seconds": 1801.0}, "max_seconds: 1801; accepted by this server: 0 to 1800"),
    ],
)
def test_a_dream_of_more_work_than_is_accepted_is_refused_with_both(client, large, parameters, expected):
    with pytest.raises(ReverieError) as caught:
        list(client.dream(large, **parameters))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.message


def test_a_transfer_of_more_work_than_is_accepted_is_refused_with_both(client, large, photo):
    with pytest.raises(ReverieError) as caught:
        list(client.transfer(large, photo, size=2048, steps=10_000))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "size, steps, scales, style_image: together" in caught.value.message
    assert "at most 4e+09" in caught.value.message


def test_callers_without_a_name_leave_places_to_those_who_have_one(server, bystander, large, photo):
    with Client(server.address.grpc) as nameless:
        streams = [
            nameless.dream(large, size=4096, num_octave=8, octave_scale=1.3, iterations=20) for _ in range(PLACES)
        ]
        next(streams[0])
        with pytest.raises(ReverieError, match=f"{PLACES} requests of callers without a name"):
            next(nameless.dream(photo))
        assert list(bystander.dream(photo, size=160, num_octave=1, iterations=1))[-1].done
        for stream in streams:
            stream.cancel()
