"""HTTP to a process of this machine, at a port or at a socket in the file system; over no proxy."""

from __future__ import annotations

import http.client
import socket

from reverie_client import hosts

UNIX = "unix:"
"""How the address of a socket in the file system begins; its path follows."""


def connect(address: str, timeout: float) -> http.client.HTTPConnection:
    """A connection, not yet opened, to "HOST:PORT" or "unix:PATH".

    Raises:
        ValueError: `address` is neither.
    """
    if address.startswith(UNIX):
        return _SocketConnection(address.removeprefix(UNIX), timeout)
    return http.client.HTTPConnection(*hosts.split(address), timeout=timeout)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
