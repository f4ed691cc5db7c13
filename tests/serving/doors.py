"""A real Envoy with the access filters, in front of stubs that say what has reached them."""

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

from serving.door.access import TokenIssuer, access
from serving.door.configuration import envoy_files
from serving.door.envoy import Envoy
from serving.door.key_watch import KeyWatch
from serving.door.keys import Callers, KeyFile
from serving.door.settings import DoorSettings, PublicAddress
from serving.triton.address import ListenAddress

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


@dataclass
class OpenDoor:
    """Attributes: errors: what the watch of the key file complained of."""

    settings: DoorSettings
    envoy: Envoy
    channel: grpc.Channel
    errors: list[str]

    def call(self, *metadata: tuple[str, str], method: str = INFER, body: bytes = b"") -> dict[str, str]:
        """The metadata with which a call has arrived; raises grpc.RpcError where it was refused."""
        return json.loads(self.channel.unary_unary(method)(body, metadata=metadata, timeout=10))

    def status(self, *metadata: tuple[str, str], method: str = INFER) -> tuple[str, str]:
        """How a call ends, and the message."""
        try:
            self.call(*metadata, method=method)
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
                return answer.status, dict(answer.headers), json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), json.loads(error.read() or b"{}")


@contextlib.contextmanager
def open_door(folder: Path, keys: KeyFile | None = None, tokens: TokenIssuer | None = None) -> Iterator[OpenDoor]:
    """A door with `keys`, which are watched, in front of stubs."""
    listen = ListenAddress.free()
    with _http_stub() as gateway:
        settings = DoorSettings(
            folder,
            grpc=PublicAddress(port=listen.grpc_port),
            http=PublicAddress(port=listen.http_port),
            gateway=gateway,
            key_file=keys.path if keys else None,
        )
        envoy, errors = Envoy(folder, log=folder / "envoy.log"), []

        def put_in_force(callers: Callers | None) -> None:
            found = access(callers, tokens)
            envoy.write(envoy_files(settings, found, found))

        watch = KeyWatch(keys, put_in_force, errors.append) if keys else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(_grpc_stub(settings.guard_socket))
            if watch:
                watch.start()
                stack.callback(watch.stop)
            else:
                put_in_force(None)
            stack.callback(envoy.stop)
            envoy.start(listeners=2)
            channel = stack.enter_context(grpc.insecure_channel(str(settings.grpc)))
            yield OpenDoor(settings, envoy, channel, errors)


def wait_until(is_so, seconds: float = 2.0) -> None:
    """Wait for what is to happen within `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


class _Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    def _unary(self, message, context):
        return json.dumps(dict(context.invocation_metadata())).encode()

    def _stream(self, messages, context):
        for _ in messages:
            yield json.dumps(dict(context.invocation_metadata())).encode()


@contextlib.contextmanager
def _grpc_stub(socket: Path) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(16), handlers=[_Echo()])
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


class _HttpEcho(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        text = json.dumps({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def _http_stub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _HttpEcho)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
