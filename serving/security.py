"""Who may call, and over what: TLS, keys. One description for the server, one for its clients."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from reverie_client import headers, hosts
from reverie_client.credentials import API_KEY_VARIABLE, CONTROL_KEY_VARIABLE, SecurityError, Tls, checked_key, read_key

_CONTROL = ("model-repository",)
_INFERENCE = ("inference", "metadata")
_FOR_CALLERS = (*_INFERENCE, "model-config", "statistics")
_CLOSED = ("shared-memory", "trace", "logging")
"""What nobody needs: any caller could name another's memory, or files to write into."""


@dataclass(frozen=True)
class Security:
    """What a server asks of its callers.

    Attributes:
        tls: its certificate and key; None for plain connections. Triton has no TLS for HTTP.
        api_key: asked for with every call but health; None for none over gRPC.
        control_key: asked for where models are loaded and unloaded; None makes one up (see `control_keys`). Default:
            $REVERIE_CONTROL_KEY, as a client's, else None.
        http: whether HTTP is open for inference, and listens where gRPC does if that is without TLS. Otherwise HTTP
            listens on this machine only and answers to the API key; where there is none, it answers health only.
        insecure: whether other machines may be let in without keys.
        door_asks: whether the door asks for keys of a key file or for tokens, in the place of `api_key`.

    Raises:
        SecurityError: TLS without a certificate, or a key that no header can carry.
    """

    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    control_key: str | None = field(default_factory=lambda: read_key(CONTROL_KEY_VARIABLE), repr=False)
    http: bool = False
    insecure: bool = False
    door_asks: bool = False
    _made_up: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    _nobody: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def __post_init__(self) -> None:
        if self.tls and not self.tls.certificate:
            raise SecurityError("a server with TLS needs a certificate and its key")
        for key, name in ((self.api_key, "the API key"), (self.control_key, "the control key")):
            if key is not None:
                checked_key(key, name)

    @property
    def made_up_control_key(self) -> str | None:
        """The random control key that publishers must be told; None where one was given."""
        return self._made_up if self.control_key is None else None

    @property
    def http_opens(self) -> str:
        """What HTTP is good for, in a few words."""
        if self.api_key:
            return "with the API key"
        return "inference" if self.http else "health only; --http opens it"

    def check_host(self, host: str) -> None:
        """Refuse to let other machines in without keys.

        Raises:
            SecurityError: `host` is not loopback, a key is missing, and nobody said that this is meant.
        """
        missing = [
            f"{name} ({variable})"
            for key, name, variable in (
                (self.api_key, "API key", API_KEY_VARIABLE),
                (self.control_key, "control key", CONTROL_KEY_VARIABLE),
            )
            if key is None
        ]
        if missing and not (self.insecure or self.door_asks or hosts.is_loopback(host)):
            raise SecurityError(
                f"{host!r} lets other machines in, and there is no {' and no '.join(missing)}; accepted: both keys, "
                "a key file (--keys), "
                "127.0.0.1, or --insecure if everybody who reaches the port may call the models"
            )

    def warnings(self, host: str) -> Iterator[str]:
        """In a sentence each, what is open that a careful person would close."""
        is_local = hosts.is_loopback(host)
        if self.api_key is None and not (self.door_asks or is_local):
            yield f"anybody who reaches {host} may call every model: there is no API key"
        if self.tls is None and not is_local:
            yield f"keys, texts and pictures can be read and altered on their way to {host}: there is no TLS"
        if self.api_key is None and self.http:
            yield "HTTP is open: any web page in a browser on this machine may send requests to the models"

    def arguments(self) -> Iterator[str]:
        """Triton's."""
        for apis, header, value in self._grpc_restrictions():
            yield f"--grpc-restricted-protocol={','.join(apis)}:{header}={value}"
        for apis, header, value in self._http_restrictions():
            yield f"--http-restricted-api={','.join(apis)}:{header}={value}"
        if self.tls:
            yield f"--grpc-use-ssl{'-mutual' if self.tls.authority else ''}=true"
            yield f"--grpc-server-cert={self.tls.certificate}"
            yield f"--grpc-server-key={self.tls.key}"
            if self.tls.authority:
                yield f"--grpc-root-cert={self.tls.authority}"

    def secrets(self) -> Iterator[str]:
        """Every key that is among `arguments`."""
        yield from self.headers().values()

    def headers(self) -> dict[str, str]:
        """What opens everything over HTTP."""
        return {header: value for _, header, value in self._http_restrictions()}

    def _grpc_restrictions(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        yield _CLOSED, headers.NOBODY, self._nobody
        yield _CONTROL, headers.CONTROL, self.control_key or self._made_up
        if self.api_key:
            yield _FOR_CALLERS, headers.API_KEY, self.api_key

    def _http_restrictions(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """Always a key, but for health: what needs a header, no web page can send without asking first."""
        is_open = _INFERENCE if self.http else ()
        closed = () if self.api_key else tuple(api for api in _FOR_CALLERS if api not in is_open)
        for apis, header, value in self._grpc_restrictions():
            yield (apis + closed if header == headers.NOBODY else apis), header, value
