"""What `reverie serve` runs: Triton, supervised, and a door in front of it. Knows nothing of options."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.door.errors import DoorError
from serving.door.opening import Opening, opening
from serving.door.settings import TokenIssuer
from serving.security import Security
from serving.telemetry import logs
from serving.triton.address import ListenAddress
from serving.triton.errors import StartInterrupted
from serving.triton.server import TritonServer
from serving.triton.supervisor import supervise


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        repository: the models.
        listen: where callers find it.
        security: what it asks of them.
        environment: added to that of the models.
        memory_bytes: what Triton itself may take.
        has_door: whether callers meet the door, and not Triton.
        cors_origins: web pages of these may call through the door.
        key_file: of the callers' keys; None where the door asks for none.
        tokens: whose tokens let callers in; None where none do.
    """

    repository: Path
    listen: ListenAddress
    security: Security
    environment: Mapping[str, str]
    memory_bytes: int
    has_door: bool = True
    cors_origins: tuple[str, ...] = field(default=())
    key_file: Path | None = None
    tokens: TokenIssuer | None = None


def run(service: Service, stop: threading.Event) -> None:
    """Serve until `stop` is set; what ends by itself is started again.

    Raises:
        ServerError, DoorError: a part cannot be started.
        SecurityError: other machines would be let in without keys.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(StartInterrupted))
        behind = _open(service, stop, stack)
        address, security = (behind.address, behind.security) if behind else (service.listen, service.security)
        server = TritonServer(
            service.repository,
            address,
            service.environment,
            security,
            memory_bytes=service.memory_bytes,
            interrupt=stop,
        )
        stack.enter_context(server)
        if behind:
            stack.callback(behind.door.drain)  # Then Triton ends what runs, then the door closes.
        for warning in service.security.warnings(service.listen.host):
            tell(f"warning: {warning}")
        supervise(server, stop, tell, on_watching=lambda: print(_ready(service, server), flush=True))


def _open(service: Service, stop: threading.Event, stack: contextlib.ExitStack) -> Opening | None:
    if not service.has_door:
        return None
    found = opening(
        service.listen,
        service.security,
        cors_origins=service.cors_origins,
        key_file=service.key_file,
        tokens=service.tokens,
        say=tell,
        interrupt=stop,
    )
    try:
        stack.enter_context(found.door)
    except DoorError as error:
        raise StartInterrupted(str(error)) if stop.is_set() else error from None
    return found


def _ready(service: Service, server: TritonServer) -> str:
    listen, security = service.listen, service.security
    with_tls = " with TLS" if security.tls else ""
    if service.has_door:
        scheme = "https" if security.tls else "http"
        http = f"{scheme}://{listen.http.partition('://')[2]} (health)"
    else:
        http = f"{server.http} ({security.http_opens})"
    return f"ready: gRPC {listen.grpc}{with_tls}, HTTP {http}, metrics {listen.metrics}"


def tell(line: str) -> None:
    """Tell the person who started it."""
    print(logs.for_people(line), file=sys.stderr, flush=True)
