"""Fixtures that several folders share: real data where a machine has it, and one server for all service tests."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# tf2onnx copies a graph before each of its optimizers, in case that fails, which takes longer than all else that it
# does. Here a failure is to be seen.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
# Servers are forked off a process in which channels and stubs run. gRPC's own handlers of a fork then close a file in the
# child that is another's by now, and it ends before it has begun (seen on a busy machine).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import numpy as np
import pytest
from reverie_client import Client
from reverie_client.credentials import SECRET_VARIABLES
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from imaging import images
from registry.rollout import Rollout
from serving.door.door import Door
from serving.security import Security
from serving.triton.server import TritonServer
from tests.serving.doors import door_before

PROJECT = Path(__file__).resolve().parents[1]
PICTURES = PROJECT / "serving" / "demo" / "pictures"


SERVERS = {"server", "plain", "keyed", "small_server", "served", "supervised", "broken", "serving"}
"""Fixtures that start a Triton."""


def is_without_tensorflow(config: pytest.Config) -> bool:
    """Whether tests that need it are left out, as `make test-fast` does."""
    return "not tensorflow" in config.option.markexpr


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that have no other tests are not even imported then."""
    if collection_path.suffix == ".py" and is_without_tensorflow(config):
        return imports_tensorflow(collection_path) or None
    return None


@functools.cache
def imports_tensorflow(file: Path) -> bool:
    """As its text says, or that of a helper in `tests/`; where another module imports it, `pytestmark` is to say so."""
    text = file.read_text()
    if re.search(r"^(import|from) (keras|tensorflow)\b|^pytestmark = .*\btensorflow\b", text, re.MULTILINE):
        return True
    helpers = (
        PROJECT / f"{name.replace('.', '/')}.py"
        for name in re.findall(r"^from (tests[\w.]*) import", text, re.MULTILINE)
    )
    return any(imports_tensorflow(helper) for helper in helpers if helper.exists())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Name a file that makes the others wait for it all the same."""
    was_there = "tensorflow" in sys.modules
    yield
    if is_without_tensorflow(collector.config) and not was_there and "tensorflow" in sys.modules:
        warnings.warn(pytest.PytestWarning(f"{collector.nodeid} imports TensorFlow without the mark"), stacklevel=1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a server or TensorFlow; files that take long come first, so that no worker begins with one at the end."""
    long: Counter[Path] = Counter()
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.service)
        if imports_tensorflow(item.path):
            item.add_marker(pytest.mark.tensorflow)
        long[item.path] += any(item.get_closest_marker(name) for name in ("service", "slow"))
    items.sort(key=lambda item: -long[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let Keras make the variables of a layer in its first call, which it does where tracing that call fails.

    It would trace each layer inside the traces of the layers around it: a second for a network of two blocks.
    """
    if "keras" in sys.modules:
        from keras.src.layers import layer

        assert callable(layer.might_have_unbuilt_state)
        layer.might_have_unbuilt_state = lambda layer: False


class ByFixtures(LoadScopeScheduling):
    """Of two workers one has all tests of a file, so that its fixtures are made once, and one all of the shared server."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "server" if calls_the_shared_server(file) else file


@functools.cache
def calls_the_shared_server(file: str) -> bool:
    """As its text says; what distributes the tests has collected none. If it is wrong, there are two servers."""
    used = r"def test_\w+\([^)]*\b(server|client)\b|fixture\S*\s+def \w+\([^)]*\bserver\b"
    return re.search(used, (PROJECT / file).read_text()) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFixtures:
    config.option.loadscopereorder = False  # By numbers of tests, whatever they take.
    return ByFixtures(config, log)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real reviews, photographs and ImageNet weights named by $REVERIE_TEST_DATA."""
    folder = os.environ.get("REVERIE_TEST_DATA")
    if not folder:
        pytest.skip("REVERIE_TEST_DATA names no folder with reviews, photographs and ImageNet weights")
    return Path(folder)


@contextlib.contextmanager
def running_eagerly() -> Iterator[None]:
    """For runs of a few steps, which take less time than tracing them. Others show that traced steps learn."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly() -> Iterator[None]:
    """The whole test is `running_eagerly`."""
    with running_eagerly():
        yield


@pytest.fixture(scope="session", autouse=True)
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where servers leave their control keys: in a folder of these tests, so that none stays on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runtime")
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        # Tests speak with servers of this machine, some of them with urllib's own functions.
        proxies = [variable for variable in os.environ if variable.lower().endswith("_proxy")]
        for variable in (*SECRET_VARIABLES, *proxies):
            patch.delenv(variable, raising=False)
        yield folder


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A small photograph as JPEG bytes."""
    return images.encode(images.fit_within(images.read(PICTURES / "cat.jpg"), 256), "jpeg")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped model repository that tests may publish into.

    Dreams and transfers do not give way to other processes: here those are trainings of other tests, and a minute long.
    """
    folder = tmp_path_factory.mktemp("served") / "model_repository"
    shutil.copytree(PROJECT / "model_repository", folder)
    for model in ("deepdream", "style_transfer"):
        file = folder / model / "1" / "model.py"
        equal = "from serving.python_backend import image_stream\n\nimage_stream.NICENESS = 0\n"
        file.write_text(f"{file.read_text()}\n{equal}")
    return folder


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The embedded Triton on `repository`, open over HTTP and without ImageNet weights."""
    nowhere = tmp_path_factory.mktemp("no-weights")
    environment = {"KERAS_HOME": str(nowhere), "REVERIE_WEIGHTS_DIR": str(nowhere)}
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with TritonServer(repository, environment=environment, security=Security(http=True), log=log) as running:
        yield running


@pytest.fixture(scope="session")
def door(server: TritonServer) -> Iterator[Door]:
    """A door in front of the shared server, which is reached without it too."""
    with door_before(server, []) as opened:
        yield opened


@pytest.fixture
def short_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that nothing names any more is served for half a second more, not for five: calls of tests are short."""
    make = Rollout.__init__

    def make_short(self: Rollout, *arguments: object, **named: object) -> None:
        make(self, *arguments, **named)
        object.__setattr__(self, "drain_seconds", min(self.drain_seconds, 0.5))

    monkeypatch.setattr(Rollout, "__init__", make_short)


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    """A connection of the test's own."""
    with Client(server.address.grpc, retry=None) as connection:
        yield connection


@pytest.fixture(scope="session")
def random_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small generated pictures, for training tests that need some picture, not a real one."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        (folder / f"{i:02d}.png").write_bytes(images.encode(images.resize(coarse, 72, 96)))
    return folder
