"""Which machine a host name means, as far as that can be said without asking a resolver."""

from __future__ import annotations

import ipaddress
import re
import socket

LOCALHOST = "localhost"
_TARGET = re.compile(r"(?:dns:(?://[^/]*/)?|ipv[46]:)?(?P<host>\[[^\]]+\]|[^\[\]:/]+):(?P<port>[0-9]+)")
"""A gRPC target that names one host and one port."""


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


def bracketed(host: str) -> str:
    """`host` as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def split_target(target: str) -> tuple[str, int] | None:
    """Host and port of a gRPC target ("localhost:8001", "dns:///[::1]:8001"); None where it names no such two."""
    found = _TARGET.fullmatch(target)
    return (found["host"], int(found["port"])) if found else None


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
