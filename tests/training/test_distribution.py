import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.training import replica
from tests.training.replica import train_on
from training.cli import train_app
from training.distribution import Distribution
from training.language_model import presets
from training.language_model.train import load
from training.runs import Run

pytestmark = pytest.mark.tensorflow

PROJECT = Path(__file__).resolve().parents[2]


def start(*trainings):
    """Processes side by side; see `tests.training.replica`."""
    command = [sys.executable, "-m", "tests.training.replica", json.dumps(trainings, default=str)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def two_workers():
    """TF_CONFIG of two processes of this machine."""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
    return [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}) for index in range(2)
    ]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(100):
        (folder / f"{i:02d}.txt").write_text(f"This movie was {['good', 'bad', 'long'][i % 3]}, number {i}!")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, texts):
    """The same tiny training without a strategy, on two mirrored devices, and by two processes."""
    folder = tmp_path_factory.mktemp("distributed")
    mirrored = ("mirrored", texts, folder / "mirrored")
    workers = (("multiworker", texts, folder / "multiworker", worker) for worker in two_workers())
    process = start(mirrored, *workers)
    assert train_on(Distribution.of("none"), texts, folder / "none").replicas == 1
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    assert out == "replicas: 2\n" * 3
    return {name: Run(folder / name) for name in ("none", "mirrored", "multiworker")}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
def test_two_replicas_end_with_the_weights_of_one(runs, strategy):
    for one, two in zip(load(runs["none"])[0].get_weights(), load(runs[strategy])[0].get_weights(), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
    assert runs[strategy].result["validation_loss"] == pytest.approx(runs["none"].result["validation_loss"], rel=1e-4)


@pytest.mark.slow
def test_only_the_chief_writes_the_run(runs):
    files = {name: sorted(p.name for p in run.path.iterdir()) for name, run in runs.items()}
    assert files["multiworker"] == files["none"]
    assert (
        len((runs["multiworker"].path / "metrics.csv").read_text().splitlines()) == 5
    )  # The header, and steps 1, 2, 4 and 6.


@pytest.mark.slow
def test_a_worker_that_is_not_the_chief_ends_well_without_the_runs_folder(tmp_path, monkeypatch, texts):
    """As on another machine, or where the chief has not written its result yet."""
    path = tmp_path / "run"
    monkeypatch.setattr(Distribution, "of", lambda name: Distribution(is_chief=False))
    monkeypatch.setitem(presets.PRESETS, "book", lambda: replica.CONFIG)
    command = ["lm", "--data", str(texts), "--run", str(path), "--cache", str(tmp_path / "cache"), "--steps", "1"]
    done = CliRunner().invoke(train_app, command)
    assert (done.exit_code, done.exception) == (0, None)
    assert f"this worker is done; worker 0, the chief, writes the run: {path}" in done.output
    assert not (path / "result.json").exists()


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="strategy is 'tpu'; accepted: none, mirrored, multiworker"):
        Distribution.of("tpu")


def test_workers_need_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="TF_CONFIG is not set; give every worker"):
        Distribution.of("multiworker")


def test_workers_of_this_machine_are_reached_without_the_proxy_of_the_environment(monkeypatch):
    class Started(Exception):
        pass

    def start():
        raise Started

    monkeypatch.setattr("tensorflow.distribute.MultiWorkerMirroredStrategy", start)
    workers = ["127.0.0.1:1", "[::1]:2", "training.example:3"]
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}}))
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "example.org")
    with pytest.raises(Started):
        Distribution.of("multiworker")
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,::1"


def test_a_batch_that_replicas_cannot_share_evenly_is_refused():
    class Strategy:
        num_replicas_in_sync = 3

    with pytest.raises(ValueError, match="batch_size is 32; accepted: a multiple of the 3 replicas"):
        Distribution(Strategy()).check(32, jit_compile=False)
    with pytest.raises(ValueError, match="jit_compile cannot be combined"):
        Distribution(Strategy()).check(33, jit_compile=True)
