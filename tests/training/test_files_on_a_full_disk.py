"""What a disk that is full in the middle of writing leaves: the file of before, and nothing else."""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from training import files
from training.runs import Run


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process can be longer than `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 100, 50_000, 160_100])
def test_a_checkpoint_that_does_not_fit_leaves_the_old_one_whole_and_nothing_else(tmp_path, monkeypatch, size):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    run = Run(tmp_path)
    run.checkpoints.save(1, [np.ones(10)])
    with room_for(size), pytest.raises(OSError) as error:
        run.checkpoints.save(2, [np.zeros(10_000), np.zeros(10_000)])
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "checkpoint.npz")
    step, variables = run.checkpoints.load()
    assert step == 1
    assert np.array_equal(variables[0], np.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert not unraisable


def test_a_result_that_does_not_fit_leaves_none(tmp_path):
    with room_for(5), pytest.raises(OSError):
        Run(tmp_path).finish({"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_saved_arrays_are_read_back_by_numpy(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int64(7), "empty": np.zeros((0, 2))}
    files.save_arrays(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert {name: found[name].tolist() for name in found.files} == {
            n: np.asarray(a).tolist() for n, a in arrays.items()
        }
