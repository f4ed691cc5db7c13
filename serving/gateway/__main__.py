"""Start a gateway: `python -m serving.gateway --listen 127.0.0.1:8080 --triton 127.0.0.1:8001`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from reverie_client import hosts

from reverie import failures
from reverie.errors import ToolkitError
from serving import local_http
from serving.gateway.app import connect, create_app
from serving.gateway.options import MIB, GatewayOptions
from serving.telemetry import logs

_DEFAULTS = GatewayOptions()
_GRACE_SECONDS = 10
_LONGEST_HEADERS = 32 * 1024
_KEEP_ALIVE_SECONDS = 2 * 3600
"""Longer than the door keeps a connection that is idle: else it could send a request on one that is just being closed."""


def main(
    listen: Annotated[
        str, typer.Option(help="HOST:PORT, of this machine alone: the gateway checks no key. Or unix:PATH.")
    ],
    triton: Annotated[str, typer.Option(help="Address of Triton's gRPC.")],
    repository: Annotated[Path, typer.Option(help="Model repository, for the tokenizer.")] = _DEFAULTS.repository,
    origin: Annotated[
        list[str] | None, typer.Option(help="Of a web page that may call from a browser; * for all. Repeatable.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer or a stream.")] = _DEFAULTS.timeout,
    max_json: Annotated[float, typer.Option(help="MiB of a body in JSON.")] = _DEFAULTS.most_json / MIB,
    max_upload: Annotated[float, typer.Option(help="MiB of a body with pictures.")] = _DEFAULTS.most_upload / MIB,
    max_in_work: Annotated[float, typer.Option(help="MiB of all bodies together.")] = _DEFAULTS.most_in_work / MIB,
    idle: Annotated[float, typer.Option(help="Seconds between pieces of a body.")] = _DEFAULTS.idle_seconds,
    has_door: Annotated[
        bool, typer.Option("--has-door", help="Only the door reaches it: believe who calls, and what he may.")
    ] = False,
) -> None:
    """Answer HTTP until SIGINT or SIGTERM."""
    options = GatewayOptions(
        repository,
        tuple(origin or ()),
        timeout,
        int(max_json * MIB),
        int(max_upload * MIB),
        int(max_in_work * MIB),
        idle,
        has_door,
    )
    uvicorn.run(
        create_app(connect(triton, options), options),
        **_place(listen),
        http="h11",  # It bounds headers, and takes nothing that is not HTTP.
        ws="none",
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        access_log=False,
        log_level="warning",
        server_header=False,
    )


def _place(listen: str) -> dict[str, Any]:
    """Where to listen, as uvicorn takes it."""
    if listen.startswith(local_http.UNIX):
        return {"uds": listen.removeprefix(local_http.UNIX), "timeout_keep_alive": _KEEP_ALIVE_SECONDS}
    host, port = hosts.split(listen)
    if not hosts.is_loopback(host):
        raise ToolkitError(f"listen: {listen}; accepted: an address of this machine alone; the door lets others in")
    return {"host": host, "port": port}


if __name__ == "__main__":
    logs.configure()
    try:
        typer.run(main)
    except ToolkitError as error:
        sys.exit(failures.tell(error))
