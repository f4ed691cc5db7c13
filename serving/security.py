"""Who may call, and over what: TLS, keys. One description for the server, one for its clients."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from serving import headers, hosts

CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE = "REVERIE_TLS_CA", "REVERIE_TLS_CERT", "REVERIE_TLS_KEY"
API_KEY_VARIABLE, CONTROL_KEY_VARIABLE, CLIENT_VARIABLE = "REVERIE_API_KEY", "REVERIE_CONTROL_KEY", "REVERIE_CLIENT"

_FILE = "_FILE"
"""After the name of a key's variable: the variable that names a file with the key instead."""

SECRET_VARIABLES = frozenset(
    {
        *(API_KEY_VARIABLE, CONTROL_KEY_VARIABLE, API_KEY_VARIABLE + _FILE, CONTROL_KEY_VARIABLE + _FILE),
        *(CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE),
    }
)
"""What the environment of a model's process has no use for, and is better without."""

_CONTROL = ("model-repository",)
_INFERENCE = ("inference", "metadata")
_FOR_CALLERS = (*_INFERENCE, "model-config", "statistics")
_CLOSED = ("shared-memory", "trace", "logging")
"""What nobody needs: any caller could name another's memory, or files to write into."""
_NOBODY = "reverie-nobody"
"""A header whose value nobody is told: it closes."""
_LONGEST = 512
_ACCEPTED = re.compile("[!-~]([ -~]*[!-~])?")
"""What a header carries unchanged, over HTTP and gRPC: printable ASCII without spaces at its ends. Triton's options
take all of it, commas, colons and equals signs too."""


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


def checked_key(key: str, source: str) -> str:
    """`key`, if a header can carry it.

    Args:
        source: where it is from, for the error; the key itself is not shown.

    Raises:
        SecurityError: it is empty, too long, or has a character that no header can carry.
    """
    if _ACCEPTED.fullmatch(key) and len(key) <= _LONGEST:
        return key
    if not key:
        raise SecurityError(f"{source} is an empty key; set a secret of your own ('openssl rand -hex 32'), or unset it")
    wrong = f"{len(key)} characters long" if len(key) > _LONGEST else "not what a header can carry"
    raise SecurityError(
        f"{source} is {wrong}; accepted: 1 to {_LONGEST} printable ASCII characters without spaces at the ends, as "
        "'openssl rand -hex 32' makes"
    )


def read_key(variable: str, file: Path | None = None) -> str | None:
    """A key out of `file`, else out of the file that `variable`_FILE names, else out of `variable`; None for none.

    A file's last line break does not count.

    Raises:
        SecurityError: the file cannot be read, or holds no key, or a variable is set to nothing.
    """
    if file is None and variable + _FILE in os.environ:
        file = Path(os.environ[variable + _FILE])
    if file is None:
        return checked_key(os.environ[variable], variable) if variable in os.environ else None
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SecurityError(f"the key's file {file} cannot be read: {error.strerror}") from None
    return checked_key(text.removesuffix("\n").removesuffix("\r"), str(file))


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

    Raises:
        SecurityError: TLS without a certificate, or a key that no header can carry.
    """

    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    control_key: str | None = field(default_factory=lambda: read_key(CONTROL_KEY_VARIABLE), repr=False)
    http: bool = False
    insecure: bool = False
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
        if missing and not self.insecure and not hosts.is_loopback(host):
            raise SecurityError(
                f"{host!r} lets other machines in, and there is no {' and no '.join(missing)}; accepted: both keys, "
                "127.0.0.1, or --insecure if everybody who reaches the port may call the models"
            )

    def warnings(self, host: str) -> Iterator[str]:
        """In a sentence each, what is open that a careful person would close."""
        is_local = hosts.is_loopback(host)
        if self.api_key is None and not is_local:
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
        yield _CLOSED, _NOBODY, self._nobody
        yield _CONTROL, headers.CONTROL, self.control_key or self._made_up
        if self.api_key:
            yield _FOR_CALLERS, headers.API_KEY, self.api_key

    def _http_restrictions(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """Always a key, but for health: what needs a header, no web page can send without asking first."""
        is_open = _INFERENCE if self.http else ()
        closed = () if self.api_key else tuple(api for api in _FOR_CALLERS if api not in is_open)
        for apis, header, value in self._grpc_restrictions():
            yield (apis + closed if header == _NOBODY else apis), header, value


def metadata(header: str, key: str | None) -> tuple[tuple[str, str], ...]:
    """gRPC metadata with `key`; none without one."""
    return ((headers.GRPC_RESTRICTED_PREFIX + header, key),) if key else ()


def clients_key(variable: str, key: str | None) -> str | None:
    """The key that a client sends: `key`, else the environment's; "" is an explicit none.

    Raises:
        SecurityError: no header can carry it, or the variable is set to nothing.
    """
    if key is None:
        return read_key(variable)
    return checked_key(key, "the key") if key else None


@dataclass(frozen=True)
class _Refusal:
    code: grpc.StatusCode
    advice: str


_TRITONS_REFUSAL = re.compile("This protocol is restricted, expecting header '([^']*)'")
_REFUSALS = {
    headers.API_KEY: _Refusal(
        grpc.StatusCode.UNAUTHENTICATED,
        f"the server asks for its API key: set {API_KEY_VARIABLE}, or give api_key= to the client",
    ),
    headers.CONTROL: _Refusal(
        grpc.StatusCode.UNAUTHENTICATED,
        f"the server asks for its control key: set {CONTROL_KEY_VARIABLE}, or give control_key= to the client; a "
        "server without one of its own leaves a random key to its user on its machine",
    ),
    _NOBODY: _Refusal(grpc.StatusCode.PERMISSION_DENIED, "this is restricted to nobody; no key opens it"),
}


def refusal(text: str) -> tuple[grpc.StatusCode, str] | None:
    """What Triton's refusal of a key means: it says UNAVAILABLE, which callers take for "try again".

    Returns:
        The right status and a message with what to do; None for any other text.
    """
    found = _TRITONS_REFUSAL.match(text)
    known = _REFUSALS.get(found[1].removeprefix(headers.GRPC_RESTRICTED_PREFIX)) if found else None
    return (known.code, f"a key is missing or wrong (restricted): {known.advice}") if known else None
