"""From what `reverie serve` is told to a door, and to where and with which keys Triton listens behind it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from serving.door.door import Door
from serving.door.folder import make_folder
from serving.door.guard.proxy import Keys
from serving.door.settings import DoorSettings, PublicAddress, TokenIssuer
from serving.security import Security
from serving.triton.address import ListenAddress


@dataclass(frozen=True)
class Opening:
    """A door, and what is behind it.

    Attributes:
        address: Triton's, on this machine, on ports that nobody is told.
        security: Triton's: every call needs a key that only the guard knows.
    """

    door: Door
    address: ListenAddress
    security: Security


def opening(
    public: ListenAddress,
    security: Security,
    *,
    cors_origins: tuple[str, ...] = (),
    gateway: str | None = None,
    key_file: Path | None = None,
    tokens: TokenIssuer | None = None,
    log: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    interrupt: threading.Event | None = None,
) -> Opening:
    """A door at `public` that asks what `security` says, or for the keys of `key_file` and the tokens of `tokens`.

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
        gateway=gateway,
        tls=security.tls,
        cors_origins=cors_origins,
        key_file=key_file,
        tokens=tokens,
    )
    api_key = None if key_file or tokens else security.api_key
    keys = Keys(triton, control, security.control_key or made_up or "", api_key)
    door = Door(settings, keys, made_up, log=log, say=say, interrupt=interrupt or threading.Event())
    return Opening(door, hidden, Security(api_key=triton, control_key=control))
