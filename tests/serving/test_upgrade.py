"""Retrain, export, label, roll back: a running server answers with the right version and drops no call."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from reverie_client import Client, ReverieError

from export.publishing import export_runs
from registry import canary, publishing
from registry.history import History
from registry.model_configuration import ModelConfiguration
from registry.publishing import PublishError
from registry.repository import Repository
from registry.rollout import Rollout
from serving.style.table import StyleTable
from serving.triton import processes
from serving.triton.server import TritonServer
from serving.triton.supervisor import ModelVersion, Supervisor, model_version
from synthesis.style.network import StyleNetworkConfig
from tests.conftest import running_eagerly
from tests.export import tiny
from training.loop import Schedule
from training.photos import Photos
from training.runs import Run
from training.style.train import StyleTraining, train

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with the two models of fast style transfer; the network's version 1 is a tiny one."""
    repository = tmp_path_factory.mktemp("upgraded") / "model_repository"
    shutil.copytree(PROJECT / "model_repository" / "stylize", repository / "stylize")
    publishing.publish(tiny.stage(Repository(repository), 40), Repository(repository))
    with TritonServer(repository, log=repository.parent / "triton.log") as server:
        yield server


@pytest.fixture(scope="module")
def retrained(tmp_path_factory, random_photos) -> Path:
    """Runs that hold one style network, trained for a few steps."""
    keras.config.set_dtype_policy("float32")
    runs = tmp_path_factory.mktemp("runs")
    painting = next(iter(Photos.of(random_photos).paths))
    network = StyleNetworkConfig(("starry_night",), width=8, blocks=1)
    config = StyleTraining(network, steps=4, batch_size=2, size=32, style_size=48, features="compact")
    with running_eagerly():
        train(config, {"starry_night": painting}, Photos.of(random_photos), runs / "style" / "new", Schedule(4))
    return runs


PIXELS = np.full((1, 32, 32, 3), 100, np.uint8)
Inputs = dict[str, np.ndarray]
INPUTS: Inputs = {"image": PIXELS, "style_weights": np.ones((1, 1), np.float32)}


class Callers:
    """Two clients that call `style` and `stylize` all the time, what answered, and what failed."""

    PAUSE = 0.02
    """In seconds. Without one they take the processors from what they wait for."""

    def __init__(self, address: str, photo: bytes, label: str = "", size: int = 64, inputs: Inputs = INPUTS):
        self.versions: list[str] = []
        self.begun: list[float] = []
        self.failures: list[Exception] = []
        self._failed: list[tuple[float, Exception]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._label, self._size, self._inputs = label, size, inputs
        self._threads = [threading.Thread(target=self._call, args=(address, photo), daemon=True) for _ in range(2)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: int, calls: int = 10) -> None:
        """Until so many more calls were answered by `version`."""
        seen = self.versions.count(str(version))
        while self.versions.count(str(version)) < seen + calls and not self.failures:
            self._stop.wait(0.02)

    def versions_since(self, instant: float) -> set[str]:
        """What answered the calls that were begun after `instant`; one that was begun before may answer later."""
        with self._lock:
            return {v for v, begun in zip(self.versions, self.begun, strict=True) if begun > instant}

    def failures_since(self, instant: float) -> list[Exception]:
        """Of calls that were begun after `instant`."""
        with self._lock:
            return [error for begun, error in self._failed if begun > instant]

    def _call(self, address: str, photo: bytes) -> None:
        with Client(address, retry=None) as client:  # Each failure counts.
            while not self._stop.wait(self.PAUSE):
                try:
                    begun = time.monotonic()
                    version = client.infer("style", self._inputs, label=self._label).version
                    with self._lock:
                        self.begun.append(begun)
                        self.versions.append(version)
                    if not self._label:
                        begun = time.monotonic()
                        client.stylize(photo, size=self._size)
                except ReverieError as error:
                    with self._lock:
                        self.failures.append(error)
                        self._failed.append((begun, error))


def publish(server: TritonServer, shift: float, fault: tiny.Fault = tiny.SOUND, **options) -> int:
    """Publish a version that adds `shift`, and have the server serve it."""
    repository = Repository(server.repository)
    staged = tiny.stage(repository, shift, fault=fault)
    return publishing.publish(staged, repository, server.address.grpc, drain_seconds=0.5, **options).version


@pytest.fixture(scope="module")
def two(served) -> tuple[int, int]:
    """Two versions that differ in one number; the second is stable, the first the previous one."""
    return publish(served, 1), publish(served, 2)


@contextlib.contextmanager
def model_of(server: TritonServer) -> Iterator[Rollout]:
    with Client(server.address.grpc) as client:
        yield Rollout("style", Repository(server.repository), client, drain_seconds=0.5)


def added(client: Client, **which: str) -> int:
    """What the version that answers adds to a pixel."""
    return int(client.infer("style", INPUTS, **which).outputs["stylized"][0, 0, 0, 0]) - 100


@pytest.mark.usefixtures("short_drains")
def test_every_call_succeeds_while_a_version_is_published_and_later_ones_are_answered_by_it(served, retrained, photo):
    """The first version that takes vectors is published before anybody calls: Triton cannot serve it beside one of weights."""

    def export() -> int:
        (published,) = export_runs("style", None, retrained, served.repository, served.address.grpc)
        assert published.served
        return published.version

    first = export()
    table = StyleTable.read(Repository(served.repository).folder("style", first))
    with (
        Callers(served.address.grpc, photo, inputs={"image": PIXELS, table.input: table.rows[:1]}) as callers,
        Client(served.address.grpc) as client,
    ):
        callers.wait_for(first)
        second = export()
        # While Triton swaps the reloaded instances in, the version before may answer a call that names none.
        callers.wait_for(second, calls=20)
        now = time.monotonic()
        callers.wait_for(second, calls=20)
        assert callers.failures == []
        assert callers.versions_since(now) == {str(second)}
        assert client.ready()


def test_versions_of_one_topology_answer_with_their_own_weights_by_number_and_by_label(served, two):
    with Client(served.address.grpc) as client:
        assert [added(client, version=str(v)) for v in two] == [1, 2]
        assert [added(client, label=name) for name in ("previous", "stable")] == [1, 2]
        assert added(client) == 2
        with pytest.raises(ReverieError, match="style has no label 'museum'; it has: previous"):
            added(client, label="museum")


def test_promotion_and_rollback_reach_callers_without_a_failed_call(served, two, photo):
    first, second = two
    with Callers(served.address.grpc, photo) as callers, model_of(served) as model:
        callers.wait_for(second)
        assert publishing.rollback(model) == first
        callers.wait_for(first)
        assert [m.version for m in model.client.models() if m.name == "style" and m.state == "READY"] == [str(first)]
        publishing.promote(model, second)
        callers.wait_for(second)
        assert callers.failures == []
        assert model.client.ready()


def corrupt(files: Path) -> None:
    (files / "model.onnx").write_bytes(b"not a model")


def answer_otherwise(files: Path) -> None:
    (files / "model.onnx").write_bytes(tiny.graph(50).SerializeToString())


@pytest.mark.usefixtures("short_drains")
@pytest.mark.parametrize(
    ("spoil", "message"), [(corrupt, "load failed for model 'style'"), (answer_otherwise, "stylized: differs by 49")]
)
def test_a_version_that_does_not_load_or_answers_otherwise_is_withdrawn_and_the_old_one_serves(
    served, two, photo, monkeypatch, spoil, message
):
    repository = Repository(served.repository)
    staged = tiny.stage(repository, 1)
    spoil(staged.files)
    monkeypatch.setattr("registry.manifest.verify", lambda folder: None)  # It would find either first.
    with Callers(served.address.grpc, photo) as callers, Client(served.address.grpc) as client:
        with pytest.raises(PublishError, match=f"was withdrawn: .*({message}).*as it was before"):
            publishing.publish(staged, repository, served.address.grpc)
        assert repository.versions("style")[-1] == two[1]
        assert added(client) == 2
        assert client.ready()
        assert callers.failures == []
        assert set(callers.versions) <= {str(two[1])}


def test_a_configuration_that_triton_refuses_is_undone(served, two, monkeypatch):
    real = ModelConfiguration.text
    monkeypatch.setattr(
        ModelConfiguration,
        "text",
        lambda *arguments: real(*arguments).replace("max_batch_size: 8", "max_batch_size: -5"),
    )
    with pytest.raises(PublishError, match=r"failed to load 'style'.*as it was before"):
        publish(served, 4)
    with Client(served.address.grpc) as client:
        assert added(client) == 2
        assert client.ready()
    assert Repository(served.repository).versions("style")[-1] == two[1]


def test_a_server_of_another_repository_is_not_taken_for_ours(served, tmp_path):
    (tmp_path / "models").mkdir()
    repository = Repository(tmp_path / "models")
    publishing.publish(tiny.stage(repository, 1), repository)
    for _ in range(40):
        files = shutil.copytree(repository.folder("style", 1), tmp_path / "copy")
        repository.publish("style", files)
    with pytest.raises(PublishError, match="does it serve"):
        publishing.publish(tiny.stage(repository, 2), repository, served.address.grpc)


@pytest.mark.parametrize(("loss", "promoted"), [(1.5, False), (1.0, True)])
def test_a_canary_gets_its_share_and_is_promoted_or_not_by_what_was_measured(served, two, photo, loss, promoted):
    repository, stable = Repository(served.repository), two[1]
    version = publishing.publish(tiny.stage(repository, 5, loss=loss), repository, label="museum").version
    with Callers(served.address.grpc, photo) as callers, model_of(served) as model:
        callers.wait_for(stable, calls=20)
        verdict = canary.run(model, version, 40, 2, served.address.metrics, canary.CanaryLimits(requests=5))
        assert verdict.promoted == promoted, verdict.reasons
        assert 0 < verdict.canary.requests < verdict.stable.requests
        assert verdict.canary.quality == loss
        assert model.labels.stable == (version if promoted else stable)
        assert "canary" not in model.labels.versions
        callers.wait_for(model.labels.stable)
        assert callers.failures == []
        (*_, event) = History(model.repository.path).events("style")
        assert (event["promoted"], event["canary"]["measure"]) == (promoted, loss)


def test_a_canary_whose_pictures_are_black_is_not_promoted_though_it_was_measured_as_good(served, two):
    repository = Repository(served.repository)
    version = publishing.publish(tiny.stage(repository, -255), repository, label="museum").version
    with model_of(served) as model:
        verdict = canary.run(model, version, 40, 0.2, served.address.metrics)
        assert not verdict.promoted
        assert any("a picture of one color" in reason for reason in verdict.reasons), verdict.reasons
        assert model.labels.stable != version


@dataclass
class Trial:
    """A canary beside a stable version, under load, and what became of it."""

    verdict: canary.Verdict
    seconds: float
    callers: Callers


def stable_of(server: TritonServer) -> int:
    with model_of(server) as model:
        assert model.labels.stable is not None
        return model.labels.stable


def try_canary(server: TritonServer, photo: bytes, fault: tiny.Fault, seconds: float) -> Trial:
    repository, stable = Repository(server.repository), stable_of(server)
    version = publishing.publish(tiny.stage(repository, 1, fault=fault), repository, label="museum").version
    with Callers(server.address.grpc, photo, size=400) as callers, model_of(server) as model:
        callers.wait_for(stable, calls=20)
        began = time.monotonic()
        verdict = canary.run(model, version, 40, seconds, server.address.metrics)
        took = time.monotonic() - began
        ended = time.monotonic()
        callers.failures.clear()  # Which `wait_for` looks at.
        callers.wait_for(model.labels.stable, calls=20)
        assert callers.failures_since(ended) == []  # Nothing goes to it any more.
        assert model.labels.stable == (version if verdict.promoted else stable)
    return Trial(verdict, took, callers)


def test_a_canary_that_fails_wide_pictures_is_rejected_after_a_few(served, two, photo):
    """`Callers` ask for small pictures through `style` and for wide ones through `stylize`."""
    trial = try_canary(served, photo, tiny.Fault(widest=300), seconds=60)
    assert not trial.verdict.promoted
    assert "of its requests failed" in " ".join(trial.verdict.reasons)
    assert trial.seconds < 30
    assert 0 < trial.verdict.canary.failures < trial.verdict.canary.requests


def test_a_canary_that_is_five_times_slower_is_rejected_for_its_p95(served, two, photo):
    publish(served, 2, tiny.Fault(rounds=2500))
    trial = try_canary(served, photo, tiny.Fault(rounds=5 * 2500), seconds=5)
    assert not trial.verdict.promoted, trial.verdict
    assert any(reason.startswith("its p95 in ms is") for reason in trial.verdict.reasons), trial.verdict.reasons
    slower = trial.verdict.canary.p95_ms / trial.verdict.stable.p95_ms
    assert slower > 2


@pytest.mark.parametrize("loss", [1.5, float("nan"), None])
def test_a_canary_whose_quality_is_worse_or_no_number_is_rejected(served, two, photo, loss):
    repository = Repository(served.repository)
    version = publishing.publish(tiny.stage(repository, 5, loss=loss), repository, label="museum").version
    with Callers(served.address.grpc, photo), model_of(served) as model:
        verdict = canary.run(model, version, 40, 0.2, served.address.metrics)
    assert not verdict.promoted
    assert any(reason.startswith(("its measure", "measure", "unknown")) for reason in verdict.reasons), verdict.reasons


def test_a_canary_whose_process_dies_leaves_the_stable_version_serving(served, two, photo):
    repository, stable = Repository(served.repository), stable_of(served)
    version = publishing.publish(tiny.stage(repository, 5), repository, label="museum").version
    told: list[str] = []
    supervisor = Supervisor(served, threading.Event(), told.append)
    with Callers(served.address.grpc, photo, label="stable") as callers, model_of(served) as model:
        with model.repository.lock():
            model.switch(model.labels.with_split(version, 40))
        callers.wait_for(stable)
        supervisor.begin()
        died = next(pid for pid, v in stubs(served) if v == ModelVersion("style", str(version)))
        os.kill(died, signal.SIGKILL)
        while not any("loading it again" in line for line in told):
            supervisor.look()
            time.sleep(0.1)
        callers.wait_for(stable, calls=20)
        assert callers.failures == []
        assert {v for _, v in stubs(served)} >= {ModelVersion("style", str(v)) for v in (stable, version)}
        with model.repository.lock():
            model.switch(model.labels.without_label("canary"))


def stubs(server: TritonServer) -> list[tuple[int, ModelVersion]]:
    """The processes of models, and of which versions they are."""
    assert server.pid is not None
    return [(p.pid, v) for p in processes.children(server.pid) for v in filter(None, [model_version(p)])]


def test_without_a_server_publishing_still_works(tmp_path):
    (tmp_path / "models").mkdir()
    repository = Repository(tmp_path / "models")
    assert not publishing.publish(tiny.stage(repository), repository, "127.0.0.1:9").served


@pytest.mark.slow
def test_a_run_remembers_its_configuration(retrained):
    run = Run.newest_finished("style", retrained)
    assert asdict(StyleTraining.from_dict(run.config))["network"]["styles"] == ("starry_night",)
