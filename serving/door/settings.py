"""What a door is told: where it listens, what lies behind it, who may come in and how much of it. Knows nothing of Envoy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from reverie_client import hosts
from reverie_client.credentials import Tls

from serving.door.errors import DoorError


@dataclass(frozen=True)
class PublicAddress:
    """Where one protocol is open to callers."""

    host: str = "127.0.0.1"
    port: int = 8001

    def __str__(self) -> str:
        return hosts.join(self.host, self.port)


@dataclass(frozen=True)
class Limits:
    """What the door takes at most, of all callers together unless it says otherwise.

    Attributes:
        message_bytes: one gRPC message; a picture file may have 256 MiB.
        body_bytes: the body of one HTTP request; the gateway checks it.
        connections: open at a time.
        streams: calls at a time on one connection.
        requests: calls at a time.
        header_seconds: until a request's headers are complete.
        idle_seconds: a call in which nothing moves, in either direction.
        heap_bytes: Envoy's memory; above it new requests are refused.
    """

    message_bytes: int = 272 * 2**20
    body_bytes: int = 64 * 2**20
    connections: int = 10_000
    streams: int = 256
    requests: int = 2_048
    header_seconds: float = 10.0
    idle_seconds: float = 3_600.0
    heap_bytes: int = 2**30


@dataclass(frozen=True)
class TokenIssuer:
    """Whose tokens (JWT) let callers in; a caller's name is the token's `sub`, and each must say when it expires.

    Attributes:
        jwks: the issuer's public keys, a file or an https:// (or http://) address. An address is asked again every 5
            minutes; a file is read once.
        issuer: what a token's `iss` must be; "" for anything.
        audience: what must be among a token's `aud`; "" for anything.

    Raises:
        DoorError: `jwks` is neither, or its file does not exist.
    """

    jwks: str
    issuer: str = ""
    audience: str = ""

    def __post_init__(self) -> None:
        if not self.is_remote and not Path(self.jwks).is_file():
            raise DoorError(
                f"{self.jwks!r} is no file; accepted: a file with the issuer's public keys (JWKS), or their https:// address"
            )

    @property
    def is_remote(self) -> bool:
        return urlsplit(self.jwks).scheme in ("http", "https")


@dataclass(frozen=True)
class DoorSettings:
    """One door.

    Attributes:
        folder: of its sockets and its configuration; its user's alone.
        grpc: public; Open Inference Protocol and gRPC-Web.
        http: public; health, and what the gateway serves.
        triton_grpc_port, triton_http_port: on 127.0.0.1, where Triton listens.
        gateway: of the HTTP gateway, "HOST:PORT" or "unix:PATH"; None where there is none.
        tls: certificate, key, and the authority of the clients' certificates where they need one; None for plain text.
        key_file: of the callers' keys; None where none are asked for.
        tokens: whose tokens let callers in; None where none do. With neither, everybody may call.
        cors_origins: web pages of these origins may call; "*" for all.
    """

    folder: Path
    grpc: PublicAddress = field(default_factory=PublicAddress)
    http: PublicAddress = field(default_factory=lambda: PublicAddress(port=8000))
    triton_grpc_port: int = 9001
    triton_http_port: int = 9000
    gateway: str | None = None
    tls: Tls | None = None
    key_file: Path | None = None
    tokens: TokenIssuer | None = None
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def guard_socket(self) -> Path:
        """Where the guard takes gRPC, from Envoy only."""
        return self.folder / "guard.sock"

    @property
    def gateway_socket(self) -> Path:
        """Where a gateway of the door's own takes HTTP, from Envoy only."""
        return self.folder / "gateway.sock"

    @property
    def admin_socket(self) -> Path:
        """Where Envoy answers its own user."""
        return self.folder / "admin.sock"
