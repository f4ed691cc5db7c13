"""How a caller is let in: TLS, keys, and the environment's variables that name them. Servers use the same description."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import grpc

from reverie_client import headers
from reverie_client.errors import SecurityError

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

_LONGEST = 512
_ACCEPTED = re.compile("[!-~]([ -~]*[!-~])?")
"""What a header carries unchanged, over HTTP and gRPC: printable ASCII without spaces at its ends. Triton's options
take all of it, commas, colons and equals signs too."""


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
                raise SecurityError(f"{file} does not exist, or is not a file; accepted: a certificate or key in PEM")
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
    headers.NOBODY: _Refusal(grpc.StatusCode.PERMISSION_DENIED, "this is restricted to nobody; no key opens it"),
}


def refusal(text: str) -> tuple[grpc.StatusCode, str] | None:
    """What Triton's refusal of a key means: it says UNAVAILABLE, which callers take for "try again".

    Returns:
        The right status and a message with what to do; None for any other text.
    """
    found = _TRITONS_REFUSAL.match(text)
    known = _REFUSALS.get(found[1].removeprefix(headers.GRPC_RESTRICTED_PREFIX)) if found else None
    return (known.code, f"a key is missing or wrong (restricted): {known.advice}") if known else None
