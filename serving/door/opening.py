"""From what `reverie serve` is told to a door, and to where and with which keys Triton listens behind it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from serving.door.door import Door
from serving.door.errors import DoorError
from serving.door.folder import make_folder
from serving.door.guard.admission import Keys
from serving.door.settings import DoorSettings, PublicAddress, TokenIssuer
from serving.gateway.options import GatewayOptions
from serving.gateway.process import Gateway
from serving.security import Security
from serving.triton.address import ListenAddress


@dataclass(frozen=True)
class Opening:
    """A door, and what is behind it.

    Attributes:
        gateway: that answers HTTP behind it, not yet started; None where there is none.
        address: Triton's, on this machine, on ports that nobody is told.
        security: Triton's: every call needs a key that only the guard knows.
    """

    door: Door
    gateway: Gateway | None
    address: ListenAddress
    security: Security


def opening(
    public: ListenAddress,
    security: Security,
    *,
    cors_origins: tuple[str, ...] = (),
    repository: Path | None = None,
    key_file: Path | None = None,
    tokens: TokenIssuer | None = None,
    log: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    interrupt: threading.Event | None = None,
) -> Opening:
    """A door at `public` that asks what `security` says, or for the keys of `key_file` and the tokens of `tokens`.

    Args:
        repository: of the models that a gateway answers for over HTTP; None for no gateway.

    Raises:
        SecurityError: other machines would be let in without keys.
        ServerError: a public port is in use.
    """
    security.check_host(public.host)
    public.check_free(public.host)
    hidden = replace(ListenAddress.free(), metrics_port=public.metrics_port, metrics_host=public.metrics_host)
    triton, control = secrets.token_hex(32), secrets.token_hex(32)
    made_up = security.made_up_control_key
    settings = DoorSettings(
        folder=make_folder(),
        grpc=PublicAddress(public.host, public.grpc_port),
        http=PublicAddress(public.host, public.http_port),
        triton_grpc_port=hidden.grpc_port,
        triton_http_port=hidden.http_port,
        tls=security.tls,
        cors_origins=cors_origins,
        key_file=key_file,
        tokens=tokens,
    )
    interrupt = interrupt or threading.Event()
    gateway = gateway_of(settings, repository, log, interrupt) if repository else None
    settings = replace(settings, gateway=gateway.address if gateway else None)
    api_key = None if key_file or tokens else security.api_key
    keys = Keys(triton, control, security.control_key or made_up or "", api_key)
    door = Door(settings, keys, made_up, log=log, say=say, interrupt=interrupt)
    return Opening(door, gateway, hidden, Security(api_key=triton, control_key=control))


def gateway_of(settings: DoorSettings, repository: Path, log: Path | None, interrupt: threading.Event) -> Gateway:
    """A gateway that this door alone reaches, and that calls the models as its callers do: through the guard."""
    most = settings.limits.body_bytes
    options = GatewayOptions(
        repository.resolve(),
        settings.cors_origins,
        most_json=min(most, GatewayOptions.most_json),
        most_upload=most,
        has_door=True,
    )
    return Gateway(f"unix:{settings.gateway_socket}", f"unix:{settings.guard_socket}", options, log, interrupt)


def issuer_of(jwks: str | None, issuer: str = "", audience: str = "") -> TokenIssuer | None:
    """Whose tokens let callers in; None where none do.

    Raises:
        DoorError: `jwks` is no address and no file, or it is missing and said which tokens count.
    """
    if jwks is None and (issuer or audience):
        raise DoorError("--jwt-issuer and --jwt-audience say which tokens count; accepted with --jwks")
    return TokenIssuer(jwks, issuer, audience) if jwks else None
