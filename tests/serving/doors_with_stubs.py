"""A whole door, Envoy and the guard, in front of stubs of Triton and of the gateway that say what has reached them."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

from serving.door.access import access_of
from serving.door.door import AccessOf, Door
from serving.door.folder import make_folder
from serving.door.guard.admission import Keys
from serving.door.keys import KeyFile
from serving.door.settings import DoorSettings, PublicAddress, TokenIssuer
from serving.triton.address import ListenAddress

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


def infer(model: str, size: int = 0) -> bytes:
    """A request of so many bytes, about, for `model`."""
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)] if size else [])
    return request.SerializeToString()


@dataclass
class OpenDoor:
    """A door and a channel to it.

    Attributes:
        said: what the door has told its owner.
        let_go: until it is set, the stub answers no call of the model "slow".
    """

    settings: DoorSettings
    door: Door
    channel: grpc.Channel
    said: list[str]
    let_go: threading.Event

    def call(self, *metadata: tuple[str, str], method: str = INFER, body: bytes = infer("stylize")) -> dict[str, str]:
        """The metadata with which a call has reached Triton; raises grpc.RpcError where it was refused."""
        return json.loads(self.channel.unary_unary(method)(body, metadata=metadata, timeout=10))

    def status(
        self, *metadata: tuple[str, str], method: str = INFER, body: bytes = infer("stylize")
    ) -> tuple[str, str]:
        """How a call ends, and the message."""
        try:
            self.call(*metadata, method=method, body=body)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def http(
        self, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], dict]:
        """Status, headers and JSON of an answer; the stub's says what has reached it."""
        request = urllib.request.Request(f"http://{self.settings.http}{path}", body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text, is_json = error.read(), error.headers["content-type"] == "application/json"
            return error.code, dict(error.headers), json.loads(text) if is_json else {}


@contextlib.contextmanager
def open_door(
    folder: Path, keys: KeyFile | None = None, tokens: TokenIssuer | None = None, access: AccessOf = access_of
) -> Iterator[OpenDoor]:
    """A door with `keys` in front of stubs; its log is `folder`/log."""
    listen, let_go = ListenAddress.free(), threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(let_go.set)
        settings = DoorSettings(
            make_folder(),
            grpc=PublicAddress(port=listen.grpc_port),
            http=PublicAddress(port=listen.http_port),
            triton_grpc_port=stack.enter_context(_triton_stub(let_go)),
            gateway=stack.enter_context(_gateway_stub()),
            key_file=keys.path if keys else None,
            tokens=tokens,
        )
        said: list[str] = []
        opens = Keys("triton's", "triton's control", "control")
        door = Door(settings, opens, access=access, log=folder / "log", say=said.append)
        stack.enter_context(door)
        channel = stack.enter_context(grpc.insecure_channel(str(settings.grpc)))
        yield OpenDoor(settings, door, channel, said, let_go)


def wait_until(is_so, seconds: float = 2.0) -> None:
    """Wait for what is to happen within `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


@dataclass
class _Triton(grpc.GenericRpcHandler):
    """Answers each message with the metadata of its call."""

    let_go: threading.Event

    def service(self, details):
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    def _unary(self, message, context):
        if message == infer("slow"):
            self.let_go.wait(30)
        return json.dumps(dict(context.invocation_metadata())).encode()

    def _stream(self, messages, context):
        for _ in messages:
            yield json.dumps(dict(context.invocation_metadata())).encode()


@contextlib.contextmanager
def _triton_stub(let_go: threading.Event) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(32), handlers=[_Triton(let_go)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


class _Gateway(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        arrived = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        text = json.dumps({"path": self.path, **arrived}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def _gateway_stub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
