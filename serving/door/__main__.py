"""A door in front of a Triton that runs already, as in `deploy/`: `python -m serving.door`.

Keys come from the environment or files, as those of `reverie serve`. The control key is Triton's too.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from reverie_client import credentials
from reverie_client.credentials import Tls

from reverie.errors import ToolkitError
from serving.door.door import Door
from serving.door.folder import make_folder
from serving.door.guard.admission import Keys
from serving.door.key_commands import KEYS_VARIABLE
from serving.door.opening import issuer_of
from serving.door.settings import DoorSettings, PublicAddress
from serving.security import Security

_SHUTDOWN_S = 60.0


def main(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines need keys, or --insecure.")
    ] = "127.0.0.1",
    grpc_port: int = 8001,
    http_port: int = 8000,
    triton_grpc_port: Annotated[int, typer.Option(help="Where Triton listens, on 127.0.0.1.")] = 9001,
    gateway: Annotated[str | None, typer.Option(help="HOST:PORT or unix:PATH of the HTTP gateway.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    tls_clients: Annotated[Path | None, typer.Option(help="Authority (PEM) whose clients alone are let in.")] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="Let web pages of this origin call.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without keys.")] = False,
    keys: Annotated[
        Path | None, typer.Option(envvar=KEYS_VARIABLE, help="Key file ('reverie keys') of those who may call.")
    ] = None,
    jwks: Annotated[str | None, typer.Option(help="Let in whoever has a token (JWT) signed with these keys.")] = None,
    jwt_issuer: Annotated[str, typer.Option(help="What a token's iss must be.")] = "",
    jwt_audience: Annotated[str, typer.Option(help="What must be among a token's aud.")] = "",
) -> None:
    """Keep a door open until SIGINT or SIGTERM; then let calls end for a minute."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    api_key, control_key = (
        credentials.read_key(variable) for variable in (credentials.API_KEY_VARIABLE, credentials.CONTROL_KEY_VARIABLE)
    )
    tls = Tls(tls_clients, tls_cert, tls_key) if tls_cert or tls_key or tls_clients else None
    security = Security(tls, api_key, control_key, insecure=insecure, door_asks=bool(keys or jwks))
    security.check_host(host)
    settings = DoorSettings(
        folder=make_folder(),
        grpc=PublicAddress(host, grpc_port),
        http=PublicAddress(host, http_port),
        triton_grpc_port=triton_grpc_port,
        gateway=gateway,
        tls=tls,
        cors_origins=tuple(cors_origin or ()),
        key_file=keys,
        tokens=issuer_of(jwks, jwt_issuer, jwt_audience),
    )
    with Door(
        settings, _keys(security), say=lambda line: print(line, file=sys.stderr, flush=True), interrupt=stop
    ) as door:
        print(f"ready: gRPC {settings.grpc}, HTTP {settings.http}", flush=True)
        stop.wait()
        door.drain(_SHUTDOWN_S)


def _keys(security: Security) -> Keys:
    """Triton's are those that this process was given; a caller's API key is asked for where nothing else is."""
    closed = security.made_up_control_key or ""  # Nobody is told it: without a key of its own nothing is controlled.
    control = security.control_key or closed
    asked = None if security.door_asks else security.api_key
    return Keys(triton=security.api_key or closed, triton_control=control, control=control, api=asked)


if __name__ == "__main__":
    try:
        typer.run(main)
    except ToolkitError as error:
        sys.exit(f"error: {error}")
