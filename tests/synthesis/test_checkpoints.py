"""Checkpoints: that long work has them inside, that they change nothing, and that what they raise ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf

from reverie.errors import Cancelled
from synthesis import checkpoints
from synthesis.deepdream import DeepDreamParameters, dream
from synthesis.gatys import GatysParameters, transfer

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8)
DREAM = DeepDreamParameters(num_octave=1, iterations=2, max_loss=0)
TRANSFER = GatysParameters(steps=2, scales=1, precision="float32")


class Counter:
    """Counts the checkpoints; raises at the first inside a call if told to."""

    def __init__(self, raises: bool = False):
        self.outside = self.calls = self.inside = 0
        self._raises = raises

    def checkpoint(self) -> None:
        self.outside += 1

    @contextmanager
    def large_call(self) -> Iterator[None]:
        self.calls += 1
        yield

    def checkpoint_inside(self) -> None:
        self.inside += 1
        if self._raises:
            raise Cancelled


@pytest.fixture(autouse=True)
def nobody_listens_afterwards() -> Iterator[None]:
    yield
    checkpoints.listen(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda: dream(IMAGE, DREAM), lambda: transfer(IMAGE, [IMAGE[::-1]] * 2, TRANSFER)],
    ids=["dream", "transfer"],
)
def test_checkpoints_inside_a_large_call_change_nothing(make, monkeypatch):
    expected = make()
    monkeypatch.setattr(checkpoints, "PAUSING_PIXELS", 0)
    counter = Counter()
    checkpoints.listen(counter)
    assert np.abs(make().astype(int) - expected).max() <= 1
    assert counter.calls >= 2
    assert counter.inside > 10 * counter.calls


def test_small_pictures_have_no_checkpoints_inside():
    counter = Counter()
    checkpoints.listen(counter)
    dream(IMAGE, DREAM)
    assert (counter.calls, counter.inside) == (0, 0)
    assert counter.outside


@pytest.mark.slow
def test_each_tile_and_each_style_is_a_checkpoint():
    counter = Counter()
    checkpoints.listen(counter)
    dream(IMAGE, DREAM.model_copy(update={"tile": 80, "iterations": 1}))
    assert counter.outside >= 4  # tiles
    counter.outside = 0
    transfer(IMAGE, [IMAGE[::-1]] * 8, TRANSFER.model_copy(update={"steps": 1}))
    assert counter.outside >= 8


def test_what_a_checkpoint_inside_raises_ends_the_call(monkeypatch):
    monkeypatch.setattr(checkpoints, "PAUSING_PIXELS", 0)
    counter = Counter(raises=True)
    checkpoints.listen(counter)
    with pytest.raises(tf.errors.OpError):
        dream(IMAGE, DREAM)
    assert counter.calls == 1
