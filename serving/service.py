"""What `reverie serve` runs: Triton, supervised, a door in front of it, and a gateway between. Knows nothing of options."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.door.errors import DoorError
from serving.door.opening import Opening, opening
from serving.door.settings import TokenIssuer
from serving.gateway.keeper import GatewayKeeper
from serving.gateway.process import GatewayError
from serving.security import Security
from serving.telemetry import logs
from serving.triton import memory
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
        has_gateway: whether HTTP is answered behind the door, beyond health.
        cors_origins: web pages of these may call through the door.
        key_file: of the callers' keys; None where the door asks for none.
        tokens: whose tokens let callers in; None where none do.
    """

    repository: Path
    listen: ListenAddress
    security: Security
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = field(default_factory=memory.default_limit)
    has_door: bool = True
    has_gateway: bool = True
    cors_origins: tuple[str, ...] = field(default=())
    key_file: Path | None = None
    tokens: TokenIssuer | None = None


@dataclass(frozen=True)
class Running:
    """A service that takes calls.

    Attributes:
        server: Triton.
        behind: the door, and the gateway, if it has one; None where callers reach Triton itself.
        listen: where callers find it.
    """

    server: TritonServer
    behind: Opening | None
    listen: ListenAddress


def run(service: Service, stop: threading.Event) -> None:
    """Serve until `stop` is set; what ends by itself is started again.

    Raises:
        ServerError, DoorError, GatewayError: a part cannot be started.
        SecurityError: other machines would be let in without keys.
    """
    with contextlib.suppress(StartInterrupted), started(service, stop, say=tell) as running:
        for warning in service.security.warnings(service.listen.host):
            tell(f"warning: {warning}")
        supervise(running.server, stop, tell, on_watching=lambda: print(_ready(service, running.server), flush=True))


@contextlib.contextmanager
def started(
    service: Service,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda line: None,
    log: Path | None = None,
) -> Iterator[Running]:
    """All parts of a service, ready; Triton is not supervised.

    Args:
        stop: once it is set, what is being started is given up.
        say: told in a sentence what ended, and what came of it.
        log: of all its processes; None for this process's own output.

    Raises:
        StartInterrupted: `stop` was set.
        ServerError, DoorError, GatewayError: a part cannot be started.
        SecurityError: other machines would be let in without keys.
    """
    stop = stop or threading.Event()
    with contextlib.ExitStack() as stack:
        behind = _opening(service, stop, say, log) if service.has_door else None
        gateway = _open(behind, stop, say, stack) if behind else None
        server = TritonServer(
            service.repository,
            behind.address if behind else service.listen,
            service.environment,
            behind.security if behind else service.security,
            memory_bytes=service.memory_bytes,
            log=log,
            interrupt=stop,
        )
        stack.enter_context(server)
        if gateway:
            with _interrupted_by(stop):
                gateway.wait()
        if behind:
            stack.callback(behind.door.drain)  # Then Triton ends what runs, then the gateway, then the door closes.
        yield Running(server, behind, service.listen)


def _opening(service: Service, stop: threading.Event, say: Callable[[str], None], log: Path | None) -> Opening:
    return opening(
        service.listen,
        service.security,
        cors_origins=service.cors_origins,
        repository=service.repository if service.has_gateway else None,
        key_file=service.key_file,
        tokens=service.tokens,
        log=log,
        say=say,
        interrupt=stop,
    )


def _open(
    behind: Opening, stop: threading.Event, say: Callable[[str], None], stack: contextlib.ExitStack
) -> GatewayKeeper | None:
    """Open the door and launch the gateway, which gets ready while Triton loads its models."""
    with _interrupted_by(stop):
        stack.enter_context(behind.door)
        return stack.enter_context(GatewayKeeper(behind.gateway, say)) if behind.gateway else None


@contextlib.contextmanager
def _interrupted_by(stop: threading.Event) -> Iterator[None]:
    """What fails once `stop` is set was interrupted."""
    try:
        yield
    except (DoorError, GatewayError) as error:
        raise StartInterrupted(str(error)) if stop.is_set() else error from None


def _ready(service: Service, server: TritonServer) -> str:
    listen, security = service.listen, service.security
    with_tls = " with TLS" if security.tls else ""
    if service.has_door:
        scheme = "https" if security.tls else "http"
        opens = "/v1, /docs" if service.has_gateway else "health"
        http = f"{scheme}://{listen.http.partition('://')[2]} ({opens})"
    else:
        http = f"{server.http} ({security.http_opens})"
    return f"ready: gRPC {listen.grpc}{with_tls}, HTTP {http}, metrics {listen.metrics}"


def tell(line: str) -> None:
    """Tell the person who started it."""
    print(logs.for_people(line), file=sys.stderr, flush=True)
