"""The door in front of a real Triton: what harms it is refused, everything else goes through, and the door stays open."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from reverie_client import Client, ReverieError, requests
from reverie_client.credentials import Tls
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.door import configuration
from serving.door.configuration import Access
from serving.door.door import Door
from serving.door.envoy import validate
from serving.door.errors import DoorError
from serving.door.guard.redaction import redacted
from serving.door.settings import DoorSettings, Limits, PublicAddress
from serving.triton.server import TritonServer
from tests.serving.certificates import Certificate, issued
from tests.serving.doors import CONTROL_KEY, door_before
from tests.serving.harmful import HARMFUL, harmful

TIMES = int(os.environ.get("REVERIE_DOOR_TIMES", "20"))
"""How often each harmful request is sent."""


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture
def behind(server: TritonServer, door: Door) -> Iterator[TritonServer]:
    """The server, which is the same process after the test, and well."""
    pid = server.pid
    yield server
    assert server.pid == pid and server.poll() is None
    with Client(str(door.settings.grpc), retry=None) as client:
        assert client.ready()


@pytest.fixture
def through(door: Door) -> Iterator[Client]:
    with Client(str(door.settings.grpc), control_key=CONTROL_KEY, retry=None) as client:
        yield client


@contextlib.contextmanager
def stub_of(door: Door, **options) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(str(door.settings.grpc), **options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.details()
    return caught.value.code().name


@pytest.mark.parametrize("name", HARMFUL)
def test_what_harms_triton_is_refused_in_calls_and_in_streams(behind, door, name):
    request = harmful(name)
    with stub_of(door) as stub:
        for _ in range(TIMES):
            assert code_of(lambda: stub.ModelInfer(request, timeout=10)) == "INVALID_ARGUMENT"
            assert code_of(lambda: list(stub.ModelStreamInfer(iter([request]), timeout=10))) == "INVALID_ARGUMENT"


def test_a_harmful_message_after_a_good_one_ends_that_stream_and_no_other(behind, door, through):
    good, bad = requests.generate("This movie", {"max_tokens": 3}), harmful("classification_of_a_text")
    for _ in range(TIMES):
        with stub_of(door) as stub:
            other = through.generate("This movie", max_tokens=20)
            next(other)
            assert (
                code_of(lambda stub=stub: list(stub.ModelStreamInfer(iter([good, bad]), timeout=10)))
                == "INVALID_ARGUMENT"
            )
            assert list(other)[-1].finish_reason in ("length", "stop")


def test_compressed_messages_are_refused_before_they_are_inflated(behind, door):
    request = service_pb2.ModelInferRequest(model_name="stylize", raw_input_contents=[bytes(2**19)])
    bomb = service_pb2.ModelInferRequest(model_name="stylize", raw_input_contents=[bytes(2**25)])
    before = peak_memory(door)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        options = [("grpc.max_send_message_length", -1)]
        with stub_of(door, compression=compression, options=options) as stub:
            assert code_of(lambda stub=stub: stub.ModelInfer(bomb, timeout=30)) == "UNIMPLEMENTED"
            for _ in range(TIMES):
                assert code_of(lambda stub=stub: stub.ModelInfer(request, timeout=10)) == "UNIMPLEMENTED"
                assert (
                    code_of(lambda stub=stub: list(stub.ModelStreamInfer(iter([request]), timeout=10)))
                    == "UNIMPLEMENTED"
                )
    assert peak_memory(door) < before + 2**24


def peak_memory(door: Door) -> int:
    """The most that Envoy and the guard ever had in memory, in bytes."""
    lines = [(Path("/proc") / str(part.pid) / "status").read_text() for part in (door.envoy, door.guard)]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in lines)


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.SystemSharedMemoryRegister(service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/y")),
        lambda stub: stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest()),
        lambda stub: stub.CudaSharedMemoryRegister(service_pb2.CudaSharedMemoryRegisterRequest(name="x")),
        lambda stub: stub.TraceSetting(service_pb2.TraceSettingRequest()),
        lambda stub: stub.LogSettings(service_pb2.LogSettingsRequest()),
        lambda stub: stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()),
        lambda stub: stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="style")),
        lambda stub: stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="style")),
    ],
)
def test_what_is_not_for_callers_is_closed(behind, door, call):
    with stub_of(door) as stub:
        assert code_of(lambda: call(stub)) in {"PERMISSION_DENIED", "UNAUTHENTICATED"}


def test_publishers_get_in_with_the_control_key(behind, through):
    assert {"style", "generate"} <= {model.name for model in through.models()}


def test_headers_for_triton_alone_do_not_reach_it(behind, door):
    """With this one, a stream that fails ends Triton now and then."""
    failing = requests.generate("x", {"temperature": -1.0})
    with stub_of(door) as stub:
        for _ in range(TIMES):
            metadata = (("triton_grpc_error", "true"), ("triton-grpc-error", "true"))
            (answer,) = stub.ModelStreamInfer(iter([failing]), timeout=10, metadata=metadata)
            assert "temperature" in answer.error_message  # With the header it would be the call's status.


def test_a_call_whose_caller_has_gone_is_finished_in_triton(behind, door, photo):
    request = requests.stylize(photo, None, {})
    with stub_of(door) as stub:
        asked = service_pb2.ModelStatisticsRequest(name="stylize")

        def statistics() -> tuple[int, int]:
            """Answered calls and failed ones."""
            (found,) = stub.ModelStatistics(asked).model_stats
            return found.inference_stats.success.count, found.inference_stats.fail.count

        _, failed = statistics()
        finished = 0
        for _ in range(10 * TIMES):  # On a busy machine some are given up before they have come to Triton.
            before, _ = statistics()
            code_of(lambda: stub.ModelInfer(request, timeout=0.02))
            with contextlib.suppress(AssertionError):
                wait_until(lambda before=before: statistics()[0] > before, seconds=2)
                finished += 1
            if finished == TIMES:
                break
        assert (finished, statistics()[1]) == (TIMES, failed)


def test_everything_goes_through_with_the_client(behind, through, photo):
    assert through.score("This movie was great").logprob < 0
    assert "".join(piece.text for piece in through.generate("This movie", max_tokens=8))
    assert through.stylize(photo)[:2] == b"\xff\xd8"
    with through.dream(photo, iterations=2, num_octave=1, size=160) as steps:
        assert next(steps).step
    with pytest.raises(ReverieError, match="temperature"):
        list(through.generate("x", temperature=-1))


def test_a_message_beyond_the_bound_is_refused_before_it_is_read(server):
    with door_before(server, [], limits=Limits(message_bytes=2**20)) as door, stub_of(door) as stub:
        request = service_pb2.ModelInferRequest(model_name="stylize", raw_input_contents=[bytes(2**21)])
        assert code_of(lambda: stub.ModelInfer(request, timeout=10)) == "RESOURCE_EXHAUSTED"


# HTTP.


def status_of(door: Door, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(f"http://{door.settings.http}{path}", data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_health_is_answered_over_http_and_nothing_else_is(behind, door):
    assert status_of(door, "/v2/health/ready") == status_of(door, "/v2/health/live") == 200
    for path in ("/v2", "/v2/models/style", "/v2/repository/index", "/v2/systemsharedmemory/status", "/metrics"):
        assert status_of(door, path) == 501
        assert status_of(door, path, b"{}") == 501


def test_bodies_that_end_triton_over_http_do_not_reach_it(behind, door):
    chunked = (
        b"POST /v2/models/style/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n[\r\n" * 100_000
    )
    deep = b"[" * 150_000
    for _ in range(TIMES):
        host, port = door.settings.http.host, door.settings.http.port
        with socket.create_connection((host, port), timeout=10) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(chunked)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(12) in (b"HTTP/1.1 501", b"")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            assert status_of(door, "/v2/models/style/infer", deep) == 501
            assert status_of(door, "/v2/models/style/infer", b"\x1f\x8b", {"Content-Encoding": "gzip"}) == 415


def test_the_grpc_port_takes_no_http(behind, door):
    request = urllib.request.Request(f"http://{door.settings.grpc}/v2/models/style/infer", b"{}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 415


def test_a_web_page_calls_with_grpc_web(behind, server):
    message = requests.score("This movie").SerializeToString()
    with door_before(server, [], cors_origins=("https://app.example",)) as door:
        url = f"http://{door.settings.grpc}/inference.GRPCInferenceService/ModelInfer"
        headers = {"Content-Type": "application/grpc-web+proto", "Origin": "https://app.example", "X-Grpc-Web": "1"}
        body = b"\0" + struct.pack(">I", len(message)) + message
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            content = answer.read()
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
        size = struct.unpack(">I", content[1:5])[0]
        assert service_pb2.ModelInferResponse.FromString(content[5 : 5 + size]).model_name == "score"
        assert b"grpc-status:0" in content[5 + size :]


# What ends, and what changes, while it is open.


@pytest.mark.parametrize("part", ["envoy", "guard"])
def test_what_is_killed_is_started_again(behind, server, part):
    said: list[str] = []
    with door_before(server, said) as door:
        process = getattr(door, part)
        pid = process.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: any("open again" in line for line in said))
        assert process.pid != pid
        with Client(str(door.settings.grpc)) as client:
            assert client.score("This movie").logprob < 0


def test_a_configuration_that_is_broken_leaves_the_old_one_in_force(behind, server):
    said: list[str] = []
    with door_before(server, said) as door, Client(str(door.settings.grpc)) as client:
        pid = door.envoy.pid
        for broken in ({"filters": [{"name": "nonsense", "typed_config": {"@type": "x"}}]}, {"per_route": {"y": {}}}):
            door.access = lambda settings, listener, broken=broken: Access(**broken)
            assert not door.reload()
            assert "keeps its old configuration" in said[-1]
        # What somebody writes past the door's own check.
        for name in ("listeners.json", "routes.json", "clusters.json"):
            whole = (door.settings.folder / name).read_text()
            (door.settings.folder / "new").write_text(whole[: len(whole) // 2])
            (door.settings.folder / "new").replace(door.settings.folder / name)
        wait_until(lambda: rejected(door) >= 3)
        assert client.score("This movie").logprob < 0
        assert door.envoy.pid == pid


def rejected(door: Door) -> int:
    """How many new files Envoy could not take."""
    _, text = door.envoy.ask("/stats?filter=update_(rejected|failure)")
    return sum(int(line.rpartition(" ")[2]) > 0 for line in text.splitlines())


def test_a_new_configuration_is_taken_over_without_a_restart(behind, server):
    said: list[str] = []
    with door_before(server, said) as door:
        pid = door.envoy.pid
        with Client(str(door.settings.grpc)) as client:
            stream = client.generate("This movie", max_tokens=100, ignore_eos=True)
            next(stream)
            deny = {"envoy.filters.http.rbac": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": {"rules": {"action": "ALLOW", "policies": {}}}}}  # fmt: skip
            filters = [{"name": "envoy.filters.http.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}}]  # fmt: skip
            door.access = lambda settings, listener: Access(filters, deny)
            assert door.reload()
            assert list(stream)[-1].finish_reason == "length"
        with Client(str(door.settings.grpc), retry=None) as client:
            wait_until(lambda: is_denied(client))
        assert door.envoy.pid == pid


def is_denied(client: Client) -> bool:
    try:
        client.score("This movie")
    except ReverieError as error:
        return error.code is grpc.StatusCode.PERMISSION_DENIED
    return False


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> dict[str, Certificate]:
    return issued(tmp_path_factory.mktemp("certificates"), "server", "next", "client")


def served_certificate(address: PublicAddress) -> str:
    return ssl.get_server_certificate((address.host, address.port), timeout=5)


def test_both_protocols_are_over_tls_1_2_or_newer_only(behind, server, certificates):
    tls = Tls(None, *certificates["server"])
    with door_before(server, [], tls=tls) as door:
        for address in (door.settings.grpc, door.settings.http):
            for version, is_taken in (("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
                command = ["openssl", "s_client", "-connect", str(address), version]
                command += ["-cipher", "ALL:@SECLEVEL=0"] if version != "-tls1_3" else []
                tried = subprocess.run(command, input="", capture_output=True, text=True, timeout=20)
                assert (tried.returncode == 0 and "BEGIN CERTIFICATE" in tried.stdout) is is_taken, version
        trusted = Tls(certificates["authority"][0])
        with Client(str(door.settings.grpc), tls=trusted) as client:
            assert client.score("This movie").logprob < 0
        context = ssl.create_default_context(cafile=certificates["authority"][0])
        with urllib.request.urlopen(f"https://{door.settings.http}/v2/health/ready", context=context, timeout=10) as ok:
            assert ok.status == 200
        with Client(str(door.settings.grpc), retry=None) as plain:
            assert not plain.ready(timeout=2)


def test_only_clients_of_the_authority_are_let_in(behind, server, certificates):
    authority = certificates["authority"][0]
    with door_before(server, [], tls=Tls(authority, *certificates["server"])) as door:
        with Client(str(door.settings.grpc), tls=Tls(authority, *certificates["client"])) as client:
            assert client.score("This movie").logprob < 0
        for wrong in (Tls(authority), Tls(authority, *certificates["stranger"])):
            with Client(str(door.settings.grpc), tls=wrong, retry=None) as stranger:
                assert not stranger.ready(timeout=2)


@pytest.mark.parametrize("how", ["renamed", "written over"])
def test_a_new_certificate_on_disk_is_served_without_a_restart(behind, server, certificates, tmp_path, how):
    files = [tmp_path / "server.pem", tmp_path / "server.key"]
    for source, file in zip(certificates["server"], files, strict=True):
        shutil.copy(source, file)
    with door_before(server, [], tls=Tls(None, *files)) as door:
        old, pid = served_certificate(door.settings.http), door.envoy.pid
        files[0].write_text("half a certif")
        for source, file in zip(certificates["next"], files, strict=True):
            if how == "renamed":
                shutil.copy(source, tmp_path / "new")
                (tmp_path / "new").replace(file)
            else:
                file.write_bytes(source.read_bytes())
        wait_until(lambda: served_certificate(door.settings.http) != old)
        assert served_certificate(door.settings.grpc).split() == certificates["next"][0].read_text().split()
        assert door.envoy.pid == pid


def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_one(behind, server, certificates, tmp_path):
    files = [tmp_path / "server.pem", tmp_path / "server.key"]
    for source, file in zip(certificates["server"], files, strict=True):
        shutil.copy(source, file)
    said: list[str] = []
    with door_before(server, said, tls=Tls(None, *files)) as door:
        old = served_certificate(door.settings.http)
        shutil.copy(certificates["next"][0], files[0])
        wait_until(lambda: any("keeps its old configuration" in line for line in said))
        assert served_certificate(door.settings.http) == old


# The parts.


def test_the_whole_configuration_is_one_that_envoy_takes(tmp_path):
    settings = DoorSettings(
        tmp_path, gateway="unix:/run/gateway.sock", tls=None, cors_origins=("*", "https://app.example")
    )
    validate(configuration.envoy_configuration(settings))
    with pytest.raises(DoorError, match="does not take"):
        validate({"static_resources": {"listeners": [{"name": "without an address"}]}})


def test_a_gateway_gets_what_is_not_health(behind, server):
    with socket.create_server(("127.0.0.1", 0)) as gateway, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(answer_once, gateway)
        with door_before(server, [], gateway=f"127.0.0.1:{gateway.getsockname()[1]}") as door:
            assert status_of(door, "/v2/health/ready") == 200
            assert status_of(door, "/v1/models") == 200
        assert answering.result().startswith(b"GET /v1/models HTTP/1.1")


def answer_once(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection:
        asked = connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return asked


def test_no_key_is_on_a_command_line_or_in_an_environment(behind, door):
    for part in (door.envoy, door.guard):
        for file in ("cmdline", "environ"):
            content = (Path("/proc") / str(part.pid) / file).read_bytes()
            assert CONTROL_KEY.encode() not in content
            assert str(behind.security.made_up_control_key).encode() not in content


def test_names_of_shared_memory_are_not_told():
    text = "Failed to increase the shared memory pool size for key 'triton_python_backend_shm_region_2a': no space"
    assert "region" not in redacted(text) and "no space" in redacted(text)
    assert redacted("temperature: -1; accepted: 0 to 2") == "temperature: -1; accepted: 0 to 2"


def test_nothing_is_left_behind(server):
    threads = threading.active_count()
    with door_before(server, []) as door:
        folder, pids = door.settings.folder, (door.envoy.pid, door.guard.pid)
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert threading.active_count() <= threads
