"""Retrain, export, and a running server answers with the new version without dropping a call."""

from __future__ import annotations

import shutil
import threading
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest

from export import publishing
from export.parity import Parity
from export.repository import Repository
from export.version import Exported
from serving.client import Client, ReverieError
from serving.triton.server import TritonServer
from synthesis import images
from training.loop import Schedule
from training.photos import Photos
from training.runs import Run
from training.style.network import StyleNetworkConfig
from training.style.train import StyleTraining, train

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with the two models of fast style transfer, on a copy of the repository."""
    repository = tmp_path_factory.mktemp("upgraded") / "model_repository"
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, repository / model)
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
    train(config, {"starry_night": painting}, Photos.of(random_photos), runs / "style" / "new", Schedule(4))
    return runs


def call_until(
    stop: threading.Event, address: str, photo: bytes, versions: list[str], failures: list[Exception]
) -> None:
    picture = images.decode(photo)[None, :64, :64]
    inputs = {"image": picture, "style_weights": np.ones((1, 1), np.float32)}
    with Client(address) as client:
        while not stop.is_set():
            try:
                versions.append(client.infer("style", inputs).version)
                client.stylize(photo, size=64)
            except ReverieError as error:
                failures.append(error)


def test_every_call_succeeds_while_version_2_is_published_and_later_ones_are_answered_by_it(served, retrained, photo):
    address, versions, failures, stop = served.address.grpc, [], [], threading.Event()
    callers = [threading.Thread(target=call_until, args=(stop, address, photo, versions, failures)) for _ in range(2)]
    with Client(address) as client:
        before = client.stylize(photo, size=64)
        for caller in callers:
            caller.start()
        (published,) = publishing.export_runs("style", None, retrained, served.repository)
        assert publishing.update_server(published, served.repository, address)
        seen = len(versions)
        while len(versions) < seen + 10:
            stop.wait(0.05)
        stop.set()
        for caller in callers:
            caller.join()
        assert failures == []
        assert versions[0] == "1"
        assert set(versions[seen + 2 :]) == {"2"}
        assert client.stylize(photo, size=64) != before


def test_a_version_that_does_not_load_is_withdrawn_and_the_old_one_serves(served, photo, tmp_path):
    repository = Repository(served.repository)
    newest = repository.versions("style")[-1]
    files = repository.staging() / "version"
    files.mkdir()
    (files / "model.onnx").write_bytes(b"not a model")
    (files / "styles.json").write_text("[]")
    exported = Exported("style", "stylize", "", Parity(0, 0, "", 0))
    broken = publishing.Published(exported, repository.publish("style", files))
    with pytest.raises(publishing.PublishError, match="withdrawn"):
        publishing.update_server(broken, served.repository, served.address.grpc)
    assert repository.versions("style")[-1] == newest
    with Client(served.address.grpc) as client:
        assert client.stylize(photo, size=64)


def test_without_a_server_publishing_still_works(tmp_path):
    exported = Exported("style", "stylize", "", Parity(0, 0, "", 0))
    assert not publishing.update_server(publishing.Published(exported, 1), tmp_path, "127.0.0.1:9")


def test_a_run_remembers_its_configuration(retrained):
    run = Run.newest_finished("style", retrained)
    assert asdict(StyleTraining.from_dict(run.config))["network"]["styles"] == ("starry_night",)
