"""TLS and keys, on a real server: who is let in, what strangers can send, and where keys can be seen."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from reverie_client import Client, ReverieError, credentials, failures, headers
from reverie_client.credentials import SecurityError, Tls
from reverie_client.messages import bytes_tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.security import Security
from serving.triton import processes, supervisor
from serving.triton.address import ListenAddress
from serving.triton.processes import descendants
from serving.triton.server import PROJECT, TritonServer
from tests.serving.certificates import issued
from tests.serving.shipped import FIRST_STYLE, STYLE_INPUT

API_KEY, CONTROL_KEY = "for callers: a=b,c==", "Zm9yIHB1Ymxpc2hlcnM="
"""With everything that an option of Triton's could stumble over."""


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured") / "model_repository"
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, folder / model)
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return issued(tmp_path_factory.mktemp("certificates"), "server", "client")


def refusal(call):
    with pytest.raises(ReverieError) as caught:
        call()
    return caught.value


@pytest.fixture(scope="module")
def plain(two_models, tmp_path_factory) -> Iterator[TritonServer]:
    """As `make serve` starts it: on this machine, without keys or TLS, by somebody who has keys in the environment."""
    log = tmp_path_factory.mktemp("plain") / "log"
    with pytest.MonkeyPatch.context() as patch:
        for variable in credentials.SECRET_VARIABLES:
            patch.setenv(variable, f"of {variable}")
        server = TritonServer(two_models, security=Security(control_key=None), log=log)
        server.start()
    yield server
    server.stop()


@pytest.fixture
def survives(plain: TritonServer) -> Iterator[TritonServer]:
    """No test may end the server: the next ones would fail for it, or pass for the wrong reason."""
    yield plain
    assert plain.poll() is None
    with Client(plain.address.grpc) as client:
        assert {m.name for m in client.models() if m.state == "READY"} == {"style", "stylize"}


FROM_A_PAGE = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
"""What a browser sends to any machine without asking it first."""


def browse(server: TritonServer, path: str, body: bytes | None = b"", headers=FROM_A_PAGE) -> int:
    """The status that a web page's request gets; a body makes it a POST."""
    request = urllib.request.Request(f"{server.http}/v2/{path}".rstrip("/"), body, headers)
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


def loading_code(witness: Path) -> dict:
    """The parameters of a load that brings a model along, which tells when it runs."""
    code = f"open({str(witness)!r}, 'w')\nclass TritonPythonModel:\n    def execute(self, requests): return []\n"
    config = {"name": "x", "backend": "python", "max_batch_size": 0}
    return {"config": json.dumps(config), "file:1/model.py": base64.b64encode(code.encode()).decode()}


def test_no_web_page_can_load_a_model_and_run_its_code(survives, tmp_path):
    witness = tmp_path / "ran"
    body = json.dumps({"parameters": loading_code(witness)}).encode()
    assert browse(survives, "repository/models/x/load", body) == 403
    assert not witness.exists()


def test_the_owner_of_the_server_can_load_that_model(plain, tmp_path):
    # Otherwise the test before shows nothing.
    witness = tmp_path / "ran"
    with contextlib.suppress(OSError):  # The model has no inputs, and is refused after it ran.
        plain.control("repository/models/x/load", 30, {"parameters": loading_code(witness)})
    assert witness.exists()


@pytest.mark.parametrize(
    "path",
    ["repository/models/style/unload", "repository/index", "models/style/infer", "models/stylize/generate",
     "models/stylize/generate_stream", "models/style/versions/5/infer", "systemsharedmemory/region/a/register",
     "cudasharedmemory/region/a/register", "models/style/trace/setting", "logging"],
)  # fmt: skip
def test_no_web_page_can_send_anything_else(survives, path):
    assert browse(survives, path) == 403


@pytest.mark.parametrize("path", ["", "models/style", "models/style/config", "models/style/stats", "models/stats"])
def test_nothing_but_health_can_be_read_over_http(survives, path):
    assert browse(survives, path, None, {}) == 403


@pytest.mark.parametrize("path", ["health/live", "health/ready", "models/style/ready"])
def test_health_needs_no_key_over_http(survives, path):
    assert browse(survives, path, None, {}) == 200


def test_a_page_that_guesses_keys_or_names_this_host_is_not_let_in(survives):
    # After rebinding its name to 127.0.0.1 a page may set any header, but it knows no key.
    guess = {"Host": "evil.example", "reverie-control": "guess", "reverie-api-key": "", "reverie-nobody": ""}
    for path in ("repository/index", "models/style/infer", "logging"):
        assert browse(survives, path, b"{}", FROM_A_PAGE | guess) == 403


def send(server: TritonServer, head: str, body: bytes) -> bytes:
    """The first line of the answer to a request over HTTP; empty where the server hung up."""
    with socket.create_connection((server.address.host, server.address.http_port), timeout=60) as connection:
        connection.sendall(f"POST {head}\r\nHost: localhost\r\n".encode() + body)
        return connection.recv(100).split(b"\r\n")[0]


CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 600_000 + b"0\r\n\r\n"
NESTED = b"Content-Length: 150000\r\n\r\n" + b"[" * 150_000


PACKED = gzip.compress(bytes(2**24))
INFLATING = f"Content-Encoding: gzip\r\nContent-Length: {len(PACKED)}\r\n\r\n".encode() + PACKED


@pytest.mark.parametrize("path", ["models/style/infer", "models/stylize/generate", "repository/models/style/load"])
@pytest.mark.parametrize("body", [CHUNKS, NESTED, INFLATING], ids=["600,000 chunks", "nested JSON", "gzip"])
def test_what_ends_triton_over_http_is_refused_before_it_is_read(survives, path, body):
    assert send(survives, f"/v2/{path} HTTP/1.1", body) == b"HTTP/1.1 403 Forbidden"


@contextlib.contextmanager
def bare(address: str, tls: Tls | None = None) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """gRPC as anybody has it: no metadata at all."""
    channel = grpc.secure_channel(address, tls.credentials()) if tls else grpc.insecure_channel(address)
    with channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def assert_model_control_is_closed(stub, witness: Path) -> None:
    load = service_pb2.RepositoryModelLoadRequest(model_name="x")
    parameters = loading_code(witness)
    load.parameters["config"].string_param = parameters["config"]
    load.parameters["file:1/model.py"].bytes_param = base64.b64decode(parameters["file:1/model.py"])
    calls = [
        lambda: stub.RepositoryModelLoad(load, timeout=30),
        lambda: stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="style"), timeout=30),
        lambda: stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=30),
        lambda: stub.SystemSharedMemoryRegister(
            service_pb2.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8), timeout=30
        ),
        lambda: stub.CudaSharedMemoryRegister(service_pb2.CudaSharedMemoryRegisterRequest(name="a"), timeout=30),
        lambda: stub.TraceSetting(service_pb2.TraceSettingRequest(), timeout=30),
        lambda: stub.LogSettings(service_pb2.LogSettingsRequest(), timeout=30),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError, match="restricted"):
            call()
    assert not witness.exists()


def test_a_bare_grpc_stub_cannot_load_code_into_a_server_without_keys(survives, tmp_path):
    with bare(survives.address.grpc) as stub:
        assert_model_control_is_closed(stub, tmp_path / "ran")


def test_whoever_started_the_server_needs_no_key_to_publish_under_any_spelling_of_this_machine(plain):
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        with Client(f"{host}:{plain.address.grpc_port}") as publisher:
            assert {m.name for m in publisher.models()} >= {"style", "stylize"}
    with Client(plain.address.grpc, control_key="") as stranger:
        assert refusal(stranger.models).code is grpc.StatusCode.UNAUTHENTICATED


def test_keys_are_neither_on_a_command_line_nor_in_the_environment_of_a_model(plain, photo):
    with Client(plain.address.grpc) as client:
        assert client.stylize(photo)
    keys = [*plain.security.secrets(), *(f"of {variable}" for variable in credentials.SECRET_VARIABLES)]
    watched = {plain.pid, *descendants(plain.pid)}
    assert len(watched) >= 3  # Triton and a process for each model
    for pid in watched:
        for file in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{file}").read_text()
            assert text and not [key for key in keys if key in text], f"{file} of {pid}"


@pytest.fixture(scope="module")
def keyed(two_models, tmp_path_factory) -> Iterator[TritonServer]:
    """A server that other machines reach, with both keys."""
    security = Security(api_key=API_KEY, control_key=CONTROL_KEY)
    log = tmp_path_factory.mktemp("keyed") / "log"
    with TritonServer(two_models, ListenAddress.free("0.0.0.0"), security=security, log=log) as server:
        yield server


def test_keys_open_what_they_are_for_and_nothing_else(keyed, photo):
    address = keyed.address.grpc
    with Client(address, api_key=API_KEY) as caller, Client(address, api_key="guessed") as stranger:
        assert stranger.ready()  # Probes need no key.
        assert caller.stylize(photo)
        for call in (lambda: stranger.stylize(photo), stranger.styles, lambda: stranger.admin.labels("style")):
            assert refusal(call).code is grpc.StatusCode.UNAUTHENTICATED
        assert refusal(caller.models).code is grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        region = service_pb2.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8)
        service_pb2_grpc.GRPCInferenceServiceStub(channel).SystemSharedMemoryRegister(
            region, metadata=[(f"triton-grpc-protocol-{headers.API_KEY}", API_KEY)]
        )
    assert failures.of_call(refused.value).code is grpc.StatusCode.PERMISSION_DENIED
    with Client(address, api_key=API_KEY, control_key=CONTROL_KEY) as publisher:
        assert {m.name for m in publisher.models()} == {"style", "stylize"}
        publisher.admin.load("stylize")
    is_supervised(keyed)


@pytest.mark.parametrize("key", ["guessed", "", API_KEY[:-1]])
def test_a_wrong_or_missing_key_is_unauthenticated_and_says_which_and_what_to_do(keyed, key):
    with Client(keyed.address.grpc, api_key=key) as stranger:
        picture = {"image": bytes_tensor(b"x")}
        calls = [
            (lambda: stranger.infer("stylize", picture), "REVERIE_API_KEY"),
            (lambda: list(stranger.stream("stylize", picture, {}, lambda arrays: [arrays])), "REVERIE_API_KEY"),
            (lambda: stranger.admin.load("stylize"), "REVERIE_CONTROL_KEY"),
        ]
        for call, variable in calls:
            error = refusal(call)
            assert error.code is grpc.StatusCode.UNAUTHENTICATED
            assert f"set {variable}" in error.message


def test_the_api_key_opens_http_for_its_callers(keyed):
    assert browse(keyed, "models/style/config", None, {}) == 403
    assert browse(keyed, "models/style/config", None, {"reverie-api-key": API_KEY}) == 200
    assert browse(keyed, "repository/index", b"", {"reverie-api-key": API_KEY}) == 403


def listening(pid: int) -> dict[int, bool]:
    """The TCP ports of a process, and whether other machines reach them."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets.add(str(descriptor.readlink()))
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                address, port = local.split(":")
                found[int(port, 16)] = not address.endswith("0100007F")
    return found


def test_of_a_server_for_other_machines_they_reach_grpc_only(keyed, plain):
    found = listening(keyed.pid)
    assert [port for port, is_reached in found.items() if is_reached] == [keyed.address.grpc_port]
    assert len(found) == 3  # Beside it HTTP and Triton's own metrics.
    assert not any(listening(plain.pid).values())


def test_the_bound_on_memory_is_triton_s_and_not_its_models_(keyed, plain):
    with Client(plain.address.grpc) as publisher:
        publisher.admin.load("stylize")  # Its process is started under the bound, the others before it.
    soft, hard = resource.prlimit(plain.pid, resource.RLIMIT_DATA)
    assert plain.memory_bytes < soft and (soft < hard or hard == resource.RLIM_INFINITY)
    for pid in descendants(plain.pid):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        assert soft == hard


def is_supervised(server):
    """The supervisor has the keys too: it loads a killed model again."""
    stop, watching, said = threading.Event(), threading.Event(), []
    arguments = (server, stop, said.append, watching.set)
    watcher = threading.Thread(target=supervisor.supervise, args=arguments, daemon=True)
    wait_until(lambda: len(processes_of("stylize", server)) == 1)  # The one before the reload may still be ending.
    watcher.start()
    try:
        assert watching.wait(30)
        os.kill(*processes_of("stylize", server), signal.SIGKILL)
        wait_until(lambda: said and processes_of("stylize", server))
    finally:
        stop.set()
        watcher.join()
    assert said == ["a process of model stylize ended; loading it again"]


def processes_of(model, server):
    return [p.pid for p in processes.children(server.pid) if f"/{model}/" in " ".join(p.arguments)]


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.service
def test_with_tls_plain_callers_and_strangers_are_not_let_in(two_models, certificates, photo, tmp_path):
    authority = certificates["authority"][0]
    tls = Tls(authority, *certificates["server"])
    with TritonServer(two_models, security=Security(tls, control_key=None), log=tmp_path / "log") as server:
        address = server.address.grpc
        with Client(address, tls=Tls(authority, *certificates["client"])) as friend:
            assert friend.stylize(photo)
        for own in ((), certificates["stranger"]):
            with Client(address, timeout=5, tls=Tls(authority, *own)) as stranger:
                assert not stranger.ready()
        with Client(address, timeout=5) as plain:
            assert not plain.ready()
        with Client(address, timeout=5, tls=Tls(certificates["stranger"][0], *certificates["client"])) as distrustful:
            assert not distrustful.ready()


@pytest.mark.slow
@pytest.mark.service
def test_with_tls_and_an_api_key_alone_nobody_without_the_control_key_loads_code(two_models, certificates, tmp_path):
    authority = Tls(certificates["authority"][0])
    security = Security(Tls(None, *certificates["server"]), API_KEY, None, http=True)
    with TritonServer(two_models, security=security, log=tmp_path / "log") as server:
        address = server.address.grpc
        with bare(address, authority) as stub:
            assert_model_control_is_closed(stub, tmp_path / "ran")
            assert browse(server, "repository/index") == 403
            with pytest.raises(grpc.RpcError, match="restricted"):
                stub.ModelConfig(service_pb2.ModelConfigRequest(name="style"), timeout=30)
        with Client(address, api_key=API_KEY, tls=authority, control_key="") as caller:
            assert caller.styles()
            assert refusal(lambda: caller.admin.load("stylize")).code is grpc.StatusCode.UNAUTHENTICATED
        with Client(address, api_key=API_KEY, tls=authority) as publisher:
            assert publisher.models()


@pytest.mark.slow
def test_http_that_was_opened_infers_and_controls_nothing(server, tmp_path):
    assert server.security.http
    image = np.zeros((1, 16, 16, 3), np.uint8)
    inputs = [
        {"name": "image", "shape": image.shape, "datatype": "UINT8", "data": image.ravel().tolist()},
        {"name": STYLE_INPUT, "shape": FIRST_STYLE.shape, "datatype": "FP32", "data": FIRST_STYLE.ravel().tolist()},
    ]
    assert browse(server, "models/style/infer", json.dumps({"inputs": inputs}).encode()) == 200
    assert browse(server, "models/style", None) == 200
    body = json.dumps({"parameters": loading_code(tmp_path / "ran")}).encode()
    for path in ("repository/models/x/load", "repository/models/style/unload", "repository/index", "logging"):
        assert browse(server, path, body) == 403
    assert browse(server, "models/style/config", None) == 403
    assert not (tmp_path / "ran").exists()


OTHERS = ["0.0.0.0", "0", "::", "[::]", "192.168.1.5", "example.org", socket.gethostname(), "", "::ffff:10.0.0.1"]


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ({}, "no API key .* and no control key"),
        ({"api_key": "a"}, "no control key"),
        ({"control_key": "c"}, "no API key"),
    ],
)
def test_other_machines_are_not_let_in_without_both_keys(certificates, two_models, host, tls, keys, missing):
    tls = Tls(None, *certificates["server"]) if tls else None
    server = TritonServer(two_models, ListenAddress(host), security=Security(tls, **{"control_key": None} | keys))
    with pytest.raises(SecurityError, match=missing):
        server.start()
    assert server.pid is None


@pytest.mark.parametrize("host", OTHERS)
def test_other_machines_are_let_in_with_both_keys_or_where_that_is_meant_and_a_warning_says_what_is_open(host):
    keyed, careless = Security(api_key="a", control_key="c"), Security(insecure=True, http=True)
    for security in (keyed, careless):
        security.check_host(host)
    assert [w for w in keyed.warnings(host) if "may call every model" in w] == []
    assert any("no TLS" in w for w in keyed.warnings(host))
    said = " ".join(careless.warnings(host))
    assert all(part in said for part in ("may call every model", "no TLS", "any web page in a browser"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_this_machine_is_let_in_without_keys_and_without_a_warning(host):
    Security(control_key=None).check_host(host)
    assert not list(Security(control_key=None).warnings(host))


BAD_KEYS = ["", " ", "\t", "secret1 ", " secret1", "schlüssel", "k\ne", "k\0", "\x7f", "\u200b", "🔑", "k" * 513]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key, monkeypatch, tmp_path):
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8", newline="")
    made = [
        lambda: Security(api_key=key),
        lambda: Security(control_key=key),
        lambda: credentials.read_key("REVERIE_API_KEY", file),
    ]
    if "\0" not in key:
        monkeypatch.setenv("REVERIE_API_KEY", key)
        monkeypatch.setenv("REVERIE_CONTROL_KEY", key)
        made += [Client, Security, lambda: credentials.read_key("REVERIE_API_KEY")]
    if key:  # An argument "" of the client's says that there is none.
        made.append(lambda: Client(api_key=key, control_key=key))
    for make in made:
        with pytest.raises(SecurityError, match=r"empty key|accepted: 1 to 512 printable ASCII") as caught:
            make()
        assert not key.strip() or key not in str(caught.value)


def test_a_key_is_read_from_its_file_without_the_last_line_break(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_API_KEY", "of the environment")
    for text in ("secret", "secret\n", "secret\r\n"):
        (tmp_path / "key").write_bytes(text.encode())
        assert credentials.read_key("REVERIE_API_KEY", tmp_path / "key") == "secret"
    monkeypatch.setenv("REVERIE_API_KEY_FILE", str(tmp_path / "key"))
    assert credentials.read_key("REVERIE_API_KEY") == "secret"
    for wrong in (str(tmp_path / "absent"), ""):
        monkeypatch.setenv("REVERIE_API_KEY_FILE", wrong)
        with pytest.raises(SecurityError, match="cannot be read"):
            credentials.read_key("REVERIE_API_KEY")


def serve(*options: str, **environment: str) -> subprocess.CompletedProcess:
    """`reverie serve`, where it ends by itself."""
    command = [sys.executable, "-m", "reverie.cli", "serve", *options]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=PROJECT, timeout=60, env={**os.environ, **environment}
    )


@pytest.mark.slow
def test_the_command_lets_no_other_machine_in_by_an_oversight(tmp_path):
    refused = serve("--host", "0.0.0.0", REVERIE_API_KEY="a")
    assert refused.returncode == 1
    assert "no control key (REVERIE_CONTROL_KEY)" in refused.stderr and "--insecure" in refused.stderr
    # Typer takes an empty variable for none, and would serve without a key.
    refused = serve("--host", "0.0.0.0", REVERIE_API_KEY="", REVERIE_CONTROL_KEY="c")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: REVERIE_API_KEY is an empty key")


def test_no_security_shows_its_keys():
    security = Security(api_key="for callers", control_key=None)
    assert not [key for key in security.secrets() if key in repr(security)]


@pytest.mark.parametrize(
    "text",
    ["UNAVAILABLE: the queue is full", "failed to connect to all addresses", "This protocol is busy", ""],
)
def test_another_refusal_stays_what_it_is(text):
    assert credentials.refusal(text) is None


def test_a_client_finds_its_certificates_in_the_environment(monkeypatch, certificates):
    monkeypatch.setenv("REVERIE_TLS_CA", str(certificates["authority"][0]))
    assert Tls.from_environment() == Tls(certificates["authority"][0])


def test_a_client_finds_its_key_in_the_environment(monkeypatch, keyed):
    monkeypatch.setenv("REVERIE_API_KEY", API_KEY)
    with Client(keyed.address.grpc) as client:
        assert client.styles()


def test_files_that_are_not_there_and_halves_of_pairs_are_named(tmp_path, certificates):
    with pytest.raises(SecurityError, match=r"absent\.pem does not exist"):
        Tls(tmp_path / "absent.pem")
    with pytest.raises(SecurityError, match="both together, or neither"):
        Tls(None, certificates["server"][0])
    with pytest.raises(SecurityError, match="needs a certificate"):
        Security(Tls(certificates["authority"][0]))
