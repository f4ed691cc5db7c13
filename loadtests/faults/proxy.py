"""A TCP relay between a client and the server whose connections can be reset or stalled, as by a dying machine or network.

A gRPC channel that is closed says goodbye; a killed client does not, and one whose network is full does not read.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

from reverie_client import hosts

_CHUNK = 65_536
_LOOK_EVERY_S = 0.05
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST, and nothing that was still to send."""


class FaultProxy:
    """Relays connections to `address`.

    Attributes:
        address: where to connect instead.
    """

    def __init__(self, address: str):
        self._server = hosts.split(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = hosts.join("127.0.0.1", self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread in `accept`, which would let one more connection through.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def stall(self) -> None:
        """Take nothing more from the server, so that it cannot send once the buffers are full."""
        self._flows.clear()

    def reset(self) -> None:
        """Reset every connection on both sides."""
        with self._lock:
            sockets, self._open = self._open, []
        self._flows.set()
        for s in sockets:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                s.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open += [client, server]
                threading.Thread(target=self._relay, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._relay, args=(server, client, True), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, can_stall: bool) -> None:
        with contextlib.suppress(OSError):
            for data in _chunks(source):
                if can_stall:
                    self._flows.wait()
                target.sendall(data)
        # What one side ends is ended on the other, as without a relay.
        source.close()
        target.close()


def _chunks(source: socket.socket) -> Iterator[bytes]:
    """What comes in, until the other side ends or the socket is closed.

    A thread that waited in `recv` would hold the socket open after `close`, and nothing would be reset.
    """
    with contextlib.suppress(OSError, ValueError):
        while True:
            if select.select([source], [], [], _LOOK_EVERY_S)[0]:
                data = source.recv(_CHUNK)
                if not data:
                    return
                yield data
