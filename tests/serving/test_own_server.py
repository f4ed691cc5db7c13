"""Starting: a port in use is said at once, an abort is tried again, and no other server is ever asked for anything."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.triton import installation
from serving.triton.address import ListenAddress
from serving.triton.errors import ServerError
from serving.triton.server import PROJECT, TritonServer


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Another server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken


@pytest.mark.parametrize("use", ["grpc", "http", "metrics"])
def test_a_port_in_use_is_said_before_anything_is_started(listener, use):
    port = listener.getsockname()[1]
    server = TritonServer(PROJECT / "model_repository", replace(ListenAddress.free(), **{f"{use}_port": port}))
    began = time.monotonic()
    with pytest.raises(ServerError, match=f"port {port} is in use; .* --{use}-port"):
        server.start()
    assert time.monotonic() - began < 1
    assert server.pid is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (replace(ListenAddress.free(), http_port=70_000), "port 70000 of 127.0.0.1 cannot be listened on"),
        (replace(ListenAddress.free(), host="192.0.2.1"), "of 192.0.2.1 cannot be listened on"),
        (ListenAddress("127.0.0.1", 18_001, 18_001, 18_002), "port 18001 is in use; .* --http-port"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_said(address, expected):
    with pytest.raises(ServerError, match=expected):
        address.check_free(address.host)


def test_free_ports_may_have_been_used_a_moment_ago():
    address = ListenAddress.free()
    with socket.create_server(("127.0.0.1", address.grpc_port)) as server:
        client = socket.create_connection(server.getsockname())
        server.accept()[0].close()  # Its side waits in TIME_WAIT.
        client.close()
    address.check_free(address.host)


@pytest.mark.slow
def test_the_command_ends_with_status_1_and_one_line(listener):
    port = listener.getsockname()[1]
    command = [sys.executable, "-m", "reverie.cli", "serve", f"--grpc-port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: port {port} is in use")
    assert len(done.stderr.splitlines()) == 1


class AnotherTriton(BaseHTTPRequestHandler):
    """Says yes to everything, and remembers it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        content = json.dumps({"name": "triton"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


def test_another_server_at_the_same_port_is_never_controlled():
    with ThreadingHTTPServer(("127.0.0.1", 0), AnotherTriton) as other:
        other.asked = []
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server = TritonServer(PROJECT / "model_repository", replace(ListenAddress.free(), http_port=other.server_port))
        for path, data in (("health/live", None), ("repository/models/style/unload", {})):
            with pytest.raises(OSError, match="another server answers"):
                server.control(path, 5, data)
        assert other.asked == ["/v2", "/v2"]
        other.shutdown()


@pytest.fixture
def mute():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("how", ["Triton has ended", "interrupted"])
def test_no_answer_is_waited_for_once_none_can_come_or_nobody_wants_it(mute, monkeypatch, how):
    server = TritonServer(PROJECT / "model_repository", replace(ListenAddress.free(), http_port=mute))
    if how == "interrupted":
        server.interrupt.set()
    else:
        monkeypatch.setattr(TritonServer, "poll", lambda server: 134)
    with pytest.raises(OSError, match=how):
        server.control("repository/models/style/load", 3600, {})


def test_an_answer_that_does_not_come_in_time_is_a_timeout(mute):
    server = TritonServer(PROJECT / "model_repository", replace(ListenAddress.free(), http_port=mute))
    with pytest.raises(TimeoutError):
        server.control("repository/index", 0.2, {})


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """In place of Triton a script that counts its starts, and then ends as the file `end` says."""
    folder = tmp_path / "tritonserver"
    stubs = folder / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for needed in (folder / "bin", folder / "backends" / "python", stubs):
        needed.mkdir(parents=True)
    (stubs / "triton_python_backend_stub").touch()
    script = folder / "bin" / "tritonserver"
    script.write_text(f'#!/bin/sh\necho start >> "{folder}/starts"\n. "{folder}/end"\n')
    script.chmod(0o755)
    monkeypatch.setattr(installation, "wheel", lambda: folder)
    return folder


@pytest.mark.parametrize(("end", "starts"), [("kill -ABRT $$", 3), ("exit 1", 1)])
def test_an_abort_of_triton_s_own_is_tried_again_and_a_refusal_is_not(wheel, tmp_path, end, starts):
    (wheel / "end").write_text(end)
    with pytest.raises(ServerError, match="while starting; see"):
        TritonServer(PROJECT / "model_repository", log=tmp_path / "log").start()
    assert (wheel / "starts").read_text().count("start") == starts
