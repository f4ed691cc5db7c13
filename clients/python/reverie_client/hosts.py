"""Which machine a host name means, as far as that can be said without asking a resolver."""

from __future__ import annotations

import ipaddress
import re
import socket

LOCALHOST = "localhost"
_SCHEME = re.compile(r"(?:dns:(?://[^/]*/)?|ipv[46]:)?", re.IGNORECASE)
"""Before the hosts of a gRPC target, where it names hosts at all."""
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\[\]:/]+):(?P<port>[0-9]+)")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`.

    Names other than "localhost" are not looked up: whoever answers for them could send them elsewhere.
    """
    address = _parse(host)
    return address.is_loopback if address else _plain(host) == LOCALHOST


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for all addresses of a machine, as 0.0.0.0 and :: do."""
    address = _parse(host)
    return address is not None and address.is_unspecified


def local_name(host: str) -> str | None:
    """One name for all spellings of this machine, another for each further loopback address; None for any other host.

    A client that connects to a wildcard reaches its own machine. On ::1, another user's server can have the port that
    ours has on 127.0.0.1, so that is a name of its own.
    """
    if is_wildcard(host) or _plain(host) == LOCALHOST:
        return LOCALHOST
    address = _parse(host)
    if address is None or not address.is_loopback:
        return None
    return LOCALHOST if str(address) == "127.0.0.1" else str(address)


def is_this_machine(target: str) -> bool:
    """Whether a gRPC target ("localhost:8001", "ipv4:127.0.0.1:1,127.0.0.1:2") names this machine alone."""
    found = [_without_port(part) for part in _addresses(target).split(",")]
    return all(local_name(host) is not None for host in found)


def bracketed(host: str) -> str:
    """`host` as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def lacks_brackets(address: str) -> bool:
    """Whether this is an IPv6 address that is not set apart from a port, if it has one."""
    return address.count(":") > 1 and "[" not in address and "/" not in address and _addresses(address) == address


def join(host: str, port: int) -> str:
    """Host and port as one address: "127.0.0.1:8001", "[::1]:8001"; `split` takes it apart again."""
    return f"{bracketed(host)}:{port}"


def split(address: str) -> tuple[str, int]:
    """The host of an address, as a socket takes it, and its port.

    Raises:
        ValueError: it is not HOST:PORT, or an IPv6 address has no brackets.
    """
    if found := split_target(address):
        return found
    raise ValueError(
        f"{address!r} is no address; accepted: HOST:PORT, as in 127.0.0.1:8001, localhost:8001, [::1]:8001"
    )


def split_target(target: str) -> tuple[str, int] | None:
    """Host and port of a gRPC target ("localhost:8001", "dns:///[::1]:8001"); None where it names no such two."""
    found = _HOST_AND_PORT.fullmatch(_addresses(target))
    return (found["host"].strip("[]"), int(found["port"])) if found and int(found["port"]) < 2**16 else None


def _addresses(target: str) -> str:
    return target[_SCHEME.match(target).end() :]  # type: ignore[union-attr]  # It also matches nothing.


def _without_port(address: str) -> str:
    found = _HOST_AND_PORT.fullmatch(address)
    return found["host"] if found else address


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address out of any spelling that a socket takes ("127.1" too); None for a name."""
    try:
        address = ipaddress.ip_address(_plain(host))
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeEncodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address
