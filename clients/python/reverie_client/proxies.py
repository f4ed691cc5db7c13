"""Which connections go through a proxy: none to this machine, all others as the environment's variables say.

gRPC, urllib and boto3 each read `http_proxy` and its relatives; a proxy cannot reach the 127.0.0.1 of its client, so a
call to this machine that goes through one always fails. Knows nothing about what is sent.
"""

from __future__ import annotations

import urllib.request
from collections.abc import MutableMapping
from http.client import HTTPResponse
from urllib.parse import urlsplit

from reverie_client import hosts

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
"""What keeps hosts from proxies; gRPC looks at the last one first."""


def channel_options(target: str) -> list[tuple[str, int]]:
    """What a gRPC channel to `target` needs so that this machine is reached directly."""
    return [("grpc.enable_http_proxy", 0)] if hosts.is_this_machine(target) else []


def is_direct(url: str) -> bool:
    """Whether `url` is of this machine, and so is never fetched through a proxy."""
    return hosts.local_name(urlsplit(url).hostname or "") is not None


def open_url(request: str | urllib.request.Request, timeout: float) -> HTTPResponse:
    """`urllib.request.urlopen`, but without a proxy to this machine.

    Args:
        timeout: in seconds.

    Raises:
        OSError: no answer, or a status that is no success (`urllib.error.HTTPError`).
    """
    url = request if isinstance(request, str) else request.full_url
    # Not `urlopen`: it keeps the proxies of its first call.
    opener = _DIRECT if is_direct(url) else urllib.request.build_opener()
    return opener.open(request, timeout=timeout)


def bypass(names: list[str], environment: MutableMapping[str, str]) -> None:
    """Name hosts in the variables that keep them from proxies, for libraries that take no such option."""
    for variable in NO_PROXY_VARIABLES:
        known = [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
        # Where it is set, gRPC does not read `no_proxy`; where it is not, setting it would hide `no_proxy`.
        if variable in environment or variable != "no_grpc_proxy":
            environment[variable] = ",".join(dict.fromkeys([*known, *names]))
