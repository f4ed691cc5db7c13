"""`reverie serve` as a process: it starts, stops on signals, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from reverie_client import Client, ReverieError, control_keys
from tritonclient.grpc import service_pb2, service_pb2_grpc

from registry import configuration
from reverie.prometheus import Snapshot
from serving.triton.address import ListenAddress
from serving.triton.errors import ServerError
from serving.triton.processes import children, descendants, find
from serving.triton.server import TritonServer
from tests.serving.shipped import FIRST_STYLE, STYLE_INPUT
from tests.serving.style_graph import COLORS, write_version

PROJECT = Path(__file__).resolve().parents[2]
PIXELS = np.full((1, 32, 32, 3), 100, np.uint8)


@pytest.fixture
def small_repository(tmp_path) -> Path:
    """A repository of the two models that start fastest."""
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, tmp_path / "model_repository" / model)
    return tmp_path / "model_repository"


def begin_to_serve(
    repository: Path, address: ListenAddress, *options: str, errors: IO[str] | int = subprocess.DEVNULL
) -> subprocess.Popen:
    ports = [f"--{p}-port={getattr(address, f'{p}_port')}" for p in ("grpc", "http", "metrics")]
    command = [sys.executable, "-m", "reverie.cli", "serve", f"--repository={repository}", *ports, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=PROJECT)


def serve(
    repository: Path, address: ListenAddress, *options: str, errors: IO[str] | int = subprocess.DEVNULL
) -> subprocess.Popen:
    process = begin_to_serve(repository, address, *options, errors=errors)
    line = process.stdout.readline()
    assert line.startswith("ready: gRPC"), line
    return process


def is_running(pid: int) -> bool:
    return find(pid) is not None


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_cleanly_on_a_signal_and_leaves_no_process_behind(small_repository, number):
    process = serve(small_repository, ListenAddress.free())
    started = descendants(process.pid)
    assert len(started) >= 3  # Triton and a stub for each model
    process.send_signal(number)
    assert process.wait(30) == 0
    assert not [pid for pid in started if is_running(pid)]


@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_load_ends_the_server_at_once(tmp_path, number):
    folder = tmp_path / "models" / "slow"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('name: "slow" backend: "python" instance_group [ { kind: KIND_CPU } ]')
    loading = tmp_path / "loading"
    (folder / "1" / "model.py").write_text(
        f"import pathlib, time\npathlib.Path({str(loading)!r}).touch()\ntime.sleep(100)\n"
    )
    process = begin_to_serve(folder.parent, ListenAddress.free())
    wait_until(loading.exists)
    started = descendants(process.pid)
    assert len(started) >= 2  # Triton and the model's process.
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 2
    assert process.stdout.read() == "stopping\n"
    assert not [pid for pid in started if is_running(pid)]


def triton_below(pid: int) -> int:
    return next(p.pid for p in children(pid) if p.arguments[0].endswith("/tritonserver"))


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def paint_until_it_works(client: Client, photo: bytes) -> int:
    """Ask for a picture until there is one; returns how often there was none."""
    deadline, failures = time.monotonic() + 60, 0
    while True:
        try:
            assert client.stylize(photo, timeout=10)
        except ReverieError:
            assert time.monotonic() < deadline, "the service does not come back"
            failures += 1
            time.sleep(0.2)
        else:
            return failures


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> Iterator[Supervised]:
    """`reverie serve` on the two models that start fastest."""
    repository = tmp_path_factory.mktemp("supervised") / "model_repository"
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, repository / model)
    address, log = ListenAddress.free(), repository.parent / "log"
    with log.open("w") as errors:
        process = serve(repository, address, errors=errors)
        yield Supervised(process, address, repository, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@dataclass(frozen=True)
class Supervised:
    """A running `reverie serve`; what it tells of what happens is in the file `log`."""

    process: subprocess.Popen
    address: ListenAddress
    repository: Path
    log: Path

    @property
    def triton(self) -> int:
        return triton_below(self.process.pid)

    @property
    def folder(self) -> Path:
        """That Triton takes its backends from."""
        (option,) = [a for a in find(self.triton).arguments if a.startswith("--backend-directory=")]
        return Path(option.partition("=")[2]).parent

    def kill_model(self, model: str) -> None:
        """End a process of a model, and wait until it has ended."""
        victims = {p.pid for p in children(self.triton) if re.search(f"/{model}/[0-9]+/", " ".join(p.arguments))}
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(is_running(pid) for pid in victims))

    def is_ready_over_http(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address.http}/v2/health/ready", timeout=10):
                return True
        except urllib.error.HTTPError:
            return False


@pytest.mark.slow
def test_what_is_killed_is_started_again_without_a_person(supervised, photo):
    triton, address = supervised.triton, supervised.address.grpc
    with Client(address) as client:
        assert paint_until_it_works(client, photo) == 0
        for model in ("style", "stylize"):
            victims = {p.pid for p in children(triton) if re.search(f"/{model}/[0-9]+/", " ".join(p.arguments))}
            os.kill(min(victims), signal.SIGKILL)
            wait_until(lambda victims=victims, triton=triton: len(victims & descendants(triton)) == 0)
            paint_until_it_works(client, photo)
            # Triton 2.51 sometimes aborts when a model's process is killed; for a model it is never ended.
            assert supervised.triton == triton or "Triton ended by itself" in supervised.log.read_text()
            triton = supervised.triton
        assert client.models()
        os.kill(triton, signal.SIGKILL)
    with Client(address) as client:
        paint_until_it_works(client, photo)
        wait_until(lambda: control_keys.find(address) is not None)
        assert client.models()  # The new Triton has its owner's key again.
    assert supervised.triton != triton


def metrics_of(supervised: Supervised) -> Snapshot:
    with urllib.request.urlopen(supervised.address.metrics, timeout=10) as reply:
        return Snapshot.read(reply.read().decode())


def counted(metrics: Snapshot, model: str = "stylize") -> dict[str, float]:
    """How many requests have ended, by status; as many were timed as were answered."""
    found = metrics.by("status", "reverie_requests", model=model)
    assert metrics.total("reverie_request_seconds_count", model=model) == found["OK"]
    return found


@pytest.mark.slow
def test_counters_neither_jump_back_nor_double_when_what_counts_is_killed_and_started_again(supervised, photo):
    def started(metrics: Snapshot) -> float:
        return metrics.total("reverie_model_reloads") + metrics.total("reverie_restarts")

    with Client(supervised.address.grpc, retry=None) as client:
        paint_until_it_works(client, photo)
        wait_until(lambda: metrics_of(supervised).total("reverie_in_flight", model="stylize") == 0)
        expected, before = counted(metrics_of(supervised)), started(metrics_of(supervised))
        for kill in (
            lambda: supervised.kill_model("stylize"),
            lambda: supervised.kill_model("stylize"),
            lambda: os.kill(supervised.triton, signal.SIGKILL),
        ):
            for _ in range(3):
                client.stylize(photo, size=64)
            with pytest.raises(ReverieError, match="INVALID_ARGUMENT"):
                client.stylize(b"no picture")
            expected = {**expected, "OK": expected["OK"] + 3, "INVALID_ARGUMENT": expected["INVALID_ARGUMENT"] + 1}
            assert counted(metrics_of(supervised)) == expected
            kill()
            wait_until(lambda before=before: comes_back(supervised, lambda m: started(m) > before))
            wait_until(lambda: comes_back(supervised) and client.ready())
            assert counted(metrics_of(supervised)) == expected  # Nobody has called.
            before = started(metrics_of(supervised))
        client.stylize(photo, size=64)
        assert counted(metrics_of(supervised)) == {**expected, "OK": expected["OK"] + 1}


def comes_back(supervised: Supervised, accepted: Callable[[Snapshot], bool] = lambda _: True) -> bool:
    """Whether the metrics are served and as they should be."""
    try:
        return accepted(metrics_of(supervised))
    except OSError:
        return False


def reason_of(client: Client, model: str) -> str:
    """Why a model is not served; empty while it is."""
    return "".join(m.reason for m in client.models() if m.name == model)


@pytest.mark.slow
def test_a_model_that_does_not_load_again_makes_the_server_unready_and_comes_back_by_itself(supervised, photo):
    file = supervised.repository / "stylize" / "1" / "model.py"
    good = file.read_text()
    with Client(supervised.address.grpc) as client:
        assert client.ready()
        file.write_text("raise MemoryError")
        supervised.kill_model("stylize")
        wait_until(lambda: "MemoryError" in reason_of(client, "stylize"))
        assert not client.ready()
        assert not supervised.is_ready_over_http()
        assert client.infer("style", {"image": PIXELS, STYLE_INPUT: FIRST_STYLE}).version
        file.write_text(good)
        wait_until(client.ready)
        assert client.stylize(photo)


@pytest.mark.slow
def test_what_a_cleaner_of_temporary_files_removes_is_put_back_where_it_is_needed(supervised, photo):
    shutil.rmtree(supervised.folder)
    supervised.kill_model("stylize")
    with Client(supervised.address.grpc) as client:
        paint_until_it_works(client, photo)
    shutil.rmtree(supervised.folder)
    os.kill(supervised.triton, signal.SIGKILL)
    with Client(supervised.address.grpc) as client:
        paint_until_it_works(client, photo)


def inflating(size: int) -> service_pb2.ModelInferRequest:
    """A request that gzip makes a thousand times smaller on its way."""
    return service_pb2.ModelInferRequest(model_name="stylize", raw_input_contents=[bytes(size)])


def send_packed(address: str, request: service_pb2.ModelInferRequest) -> grpc.StatusCode:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options, compression=grpc.Compression.Gzip) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=60)
        return call.exception().code()


def most_memory(pid: int) -> int:
    """The most that a process ever had in memory, in bytes; 0 for one that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


@pytest.mark.slow
@pytest.mark.service
def test_a_message_that_inflates_ends_triton_and_not_the_machine_and_the_service_comes_back(small_repository, photo):
    limit, size = 2**27, 2**28
    address = ListenAddress.free()
    # The door lets no such message in.
    process = serve(small_repository, address, "--no-door", f"--memory-limit={limit / 2**30}")
    try:
        triton = triton_below(process.pid)
        idle, peaks = most_memory(triton), [0]
        ended = os.pidfd_open(triton)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(send_packed, address.grpc, inflating(size))
            while not select.select([ended], [], [], 0.005)[0] and not answer.done():
                peaks.append(most_memory(triton))
            assert answer.result() is grpc.StatusCode.UNAVAILABLE
        assert select.select([ended], [], [], 30)[0], "Triton still runs"
        os.close(ended)
        assert max(peaks) < idle + limit + 2**25
        wait_until(lambda: process.poll() is None and triton not in descendants(process.pid))
        with Client(address.grpc) as client:
            paint_until_it_works(client, photo)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.service
def test_triton_does_not_outlive_a_killed_parent(small_repository):
    process = serve(small_repository, ListenAddress.free())
    triton = triton_below(process.pid)
    descriptor = os.pidfd_open(triton)
    process.kill()
    process.wait()
    assert select.select([descriptor], [], [], 30)[0], "tritonserver still runs"
    os.close(descriptor)


@pytest.mark.service
def test_health_tells_ready_from_absent_and_no_shared_memory_is_left_behind(small_repository):
    log = small_repository.parent / "log"
    with TritonServer(small_repository, log=log) as server, Client(server.address.grpc) as client:
        regions = server.shared_memory()
        assert regions
        assert client.ready()
    assert not [region for region in regions if region.exists()]
    with Client(server.address.grpc) as client:
        assert not client.ready(timeout=0.5)


@pytest.mark.slow
def test_a_missing_repository_is_one_clear_line(tmp_path):
    command = [sys.executable, "-m", "reverie.cli", "serve", f"--repository={tmp_path / 'absent'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no model repository at")
    assert "Traceback" not in done.stderr


def test_without_a_safe_place_for_the_control_key_nothing_is_served(small_repository, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "reverie").symlink_to(tmp_path)
    server = TritonServer(small_repository, log=tmp_path / "log")
    with pytest.raises(ServerError, match="is a link or a file"):
        server.start()
    assert server.pid is None


@pytest.mark.slow
@pytest.mark.service
def test_a_model_that_cannot_load_ends_the_start_with_where_to_look(small_repository):
    (graph,) = (small_repository / "style").glob("*/model.onnx")
    graph.write_bytes(b"broken")
    log = small_repository.parent / "triton.log"
    with pytest.raises(ServerError, match=r"while starting; see .*triton\.log"):
        TritonServer(small_repository, log=log).start()
    assert "style" in log.read_text()


@pytest.fixture
def broken(tmp_path) -> Iterator[tuple[Client, np.ndarray]]:
    """A client of a server whose `style` loads, and fails on every picture but all black ones; and the weights it takes."""
    repository = tmp_path / "model_repository"
    write_version(repository / "style" / "1")
    graph = onnx.load(repository / "style" / "1" / "model.onnx")
    # The brightest value is taken for the index of a table of one row.
    brightest = helper.make_node("ReduceMax", ["image32"], ["brightest"], keepdims=0)
    graph.graph.node.insert(0, helper.make_node("Cast", ["image"], ["image32"], to=TensorProto.INT32))
    graph.graph.node.insert(1, brightest)
    graph.graph.node.insert(2, helper.make_node("Gather", ["high_table", "brightest"], ["top"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.array([255], np.float32), "high_table"))
    clip = next(node for node in graph.graph.node if node.op_type == "Clip")
    clip.input[2] = "top"
    onnx.save(graph, repository / "style" / "1" / "model.onnx")
    (repository / "style" / "config.pbtxt").write_text(configuration.style(tuple(COLORS)).text())
    with TritonServer(repository, log=tmp_path / "log") as server, Client(server.address.grpc) as client:
        yield client, np.ones((1, len(COLORS)), np.float32)


def test_a_model_that_fails_is_an_internal_error_and_takes_no_other_request_with_it(broken):
    client, weights = broken

    def ask(value: int) -> grpc.StatusCode:
        pixels = np.full((1, 256, 256, 3), value, np.uint8)
        try:
            client.infer("style", {"image": pixels, "style_weights": weights})
        except ReverieError as error:
            assert "the model failed on image [1, 256, 256, 3]" in error.message
            return error.code
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(ask, [0, 200] * 4))
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL] * 4
