"""Who may call, and over what: TLS, keys. One description for the server, one for its clients."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from serving import headers

CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE = "REVERIE_TLS_CA", "REVERIE_TLS_CERT", "REVERIE_TLS_KEY"
API_KEY_VARIABLE, CONTROL_KEY_VARIABLE, CLIENT_VARIABLE = "REVERIE_API_KEY", "REVERIE_CONTROL_KEY", "REVERIE_CLIENT"

_FOR_CALLERS = ("inference", "metadata", "model-config", "statistics")
_CLOSED = ("shared-memory", "trace", "logging")
"""What nobody needs: any caller could name another's memory, or files to write into."""


class SecurityError(Exception):
    """A certificate or key cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Tls:
    """Files in PEM.

    Attributes:
        authority: of the other side's certificate. A client's: whose servers it trusts, None for those that gRPC
            trusts. A server's: whose clients it lets in, None for all.
        certificate, key: one's own; a client needs them where the server asks.

    Raises:
        SecurityError: a file is missing, or a certificate comes without its key.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for file in filter(None, (self.authority, self.certificate, self.key)):
            if not file.is_file():
                raise SecurityError(f"{file} is no file; accepted: a certificate or key in PEM")
        if (self.certificate is None) != (self.key is None):
            raise SecurityError(
                f"certificate {self.certificate} and key {self.key}: accepted are both together, or neither"
            )

    @classmethod
    def from_environment(cls) -> Tls | None:
        """From `REVERIE_TLS_CA`, `_CERT` and `_KEY`; None where the first is not set."""
        files = [os.environ.get(name) for name in (CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE)]
        return cls(*(Path(file) if file else None for file in files)) if files[0] else None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a client's channel."""
        contents = [file.read_bytes() if file else None for file in (self.authority, self.key, self.certificate)]
        return grpc.ssl_channel_credentials(*contents)


@dataclass(frozen=True)
class Security:
    """What a server asks of its callers.

    Attributes:
        tls: its certificate and key; None for plain connections. HTTP, for which Triton has no TLS, is then closed.
        api_key: asked for with every call but health; empty for none.
        control_key: asked for where models are loaded and unloaded; empty leaves that open to all who reach the port.
    """

    tls: Tls | None = None
    api_key: str = ""
    control_key: str = ""
    _nobody: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def __post_init__(self) -> None:
        if self.tls and not self.tls.certificate:
            raise SecurityError("a server with TLS needs a certificate and its key")

    def arguments(self) -> Iterator[str]:
        """Triton's."""
        for apis, header, value in self._restrictions():
            yield f"--grpc-restricted-protocol={','.join(apis)}:{header}={value}"
            yield f"--http-restricted-api={','.join(apis)}:{header}={value}"
        if self.tls:
            yield f"--grpc-use-ssl{'-mutual' if self.tls.authority else ''}=true"
            yield f"--grpc-server-cert={self.tls.certificate}"
            yield f"--grpc-server-key={self.tls.key}"
            if self.tls.authority:
                yield f"--grpc-root-cert={self.tls.authority}"

    def headers(self) -> dict[str, str]:
        """What opens everything over HTTP."""
        return {header: value for _, header, value in self._restrictions()}

    def _restrictions(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        yield _CLOSED, "reverie-nobody", self._nobody
        if self.api_key:
            yield _FOR_CALLERS, headers.API_KEY, self.api_key
        if self.control_key:
            yield ("model-repository",), headers.CONTROL, self.control_key


def metadata(header: str, variable: str, key: str | None) -> tuple[tuple[str, str], ...]:
    """gRPC metadata with `key`, or with what the environment has; none if there is neither."""
    value = os.environ.get(variable) if key is None else key
    return ((headers.GRPC_RESTRICTED_PREFIX + header, value),) if value else ()
