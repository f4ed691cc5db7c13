"""Serves `/metrics`: Triton's own, those of all its models' processes, and those of this one.

    python -m serving.telemetry.exporter --triton http://127.0.0.1:8003/metrics --listen 0.0.0.0:8002

does so where something else starts Triton; `PROMETHEUS_MULTIPROC_DIR` names the folder of the models' values.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from reverie_client import proxies

from serving.telemetry.definitions import FOLDER_VARIABLE, SUPERVISOR_REGISTRY
from serving.telemetry.values_folder import ValuesFolder

PATH = "/metrics"
_TRITON_SECONDS = 2.0
"""For Triton's own, which are left out while it does not answer."""
_CALLER_SECONDS = 10.0
_MOST_CALLERS = 16
"""At once; one more is sent away."""


class Exporter:
    """Serves metrics in threads of this process, from `start` to `stop`.

    Args:
        host, port: where to listen.
        triton: address of Triton's own metrics.
        folder: of the values of its models' processes.
    """

    def __init__(self, host: str, port: int, triton: str, folder: Path):
        self.values = ValuesFolder(folder)
        self._triton = triton
        self._registry = CollectorRegistry()
        self._registry.register(self.values)
        self._server = _server(host, port, self.text)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        own = generate_latest(self._registry) + generate_latest(SUPERVISOR_REGISTRY)
        return self._tritons() + own

    def _tritons(self) -> bytes:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            proxies.open_url(self._triton, _TRITON_SECONDS) as reply,
        ):
            return reply.read().rstrip(b"\n") + b"\n"
        return b""


def _server(host: str, port: int, text: Callable[[], bytes]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CALLER_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(HTTPStatus.NOT_FOUND, explain=f"accepted: {PATH}")
                return
            content = text()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: one line a scrape helps nobody."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        room = threading.BoundedSemaphore(_MOST_CALLERS)

        def process_request(self, request: Any, client_address: Any) -> None:
            if self.room.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.room.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: a caller has left before it was answered."""

    return Server((host.strip("[]"), port), Handler)


def main(
    triton: Annotated[str, typer.Option(help="Address of Triton's own metrics.")],
    listen: Annotated[str, typer.Option(help="Where to serve all of them, as host:port.")] = "127.0.0.1:8002",
    beside: Annotated[int, typer.Option(help="End when this process has ended; 0 for never.")] = 0,
) -> None:
    """Serve the metrics of a Triton that something else has started, until a signal ends it."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not Path(folder).is_dir() or not folder:
        raise typer.BadParameter(
            f"{FOLDER_VARIABLE}: {folder!r} is no folder; accepted: the one that Triton was started with"
        )
    host, _, port = listen.rpartition(":")
    exporter = Exporter(host, int(port), triton, Path(folder))
    exporter.start()
    while not beside or psutil.pid_exists(beside):
        time.sleep(1.0)


if __name__ == "__main__":
    typer.run(main)
