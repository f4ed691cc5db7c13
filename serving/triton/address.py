"""Where a server listens: hosts and ports, and whether they are free. Knows nothing of what listens there."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import dataclass

from reverie_client import hosts

from serving.triton.errors import ServerError


@dataclass(frozen=True)
class ListenAddress:
    """Where a server listens; the ports differ.

    Attributes:
        host: of gRPC, and of HTTP where that is open.
        metrics_host: anybody who reaches it may read the metrics; Triton has no key for them.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    metrics_host: str = "127.0.0.1"

    @classmethod
    def free(cls, host: str = "127.0.0.1") -> ListenAddress:
        """Find three ports that are free now on `host`, and where metrics are."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_listener(host.strip("[]"), 0)) for _ in range(3)]
            return cls(host, *(s.getsockname()[1] for s in sockets))

    def check_free(self, http_host: str, patience: float = 0.0) -> None:
        """Make sure that the ports can be listened on.

        Args:
            http_host: where HTTP is to be, which is not always `host`.
            patience: seconds to wait for one in use; what a killed server had open closes a moment after it.

        Raises:
            ServerError: one of them cannot, for example because another server does.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._listen_once(http_host)
            except ServerError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)

    def _listen_once(self, http_host: str) -> None:
        hosts_of = {"grpc": self.host, "http": http_host, "metrics": self.metrics_host}
        with contextlib.ExitStack() as stack:
            for use, host in hosts_of.items():
                port = getattr(self, f"{use}_port")
                try:
                    stack.enter_context(_listener(host.strip("[]"), port))
                except (OSError, OverflowError) as error:
                    in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                    raise ServerError(
                        f"port {port} {'is in use' if in_use else f'of {host} cannot be listened on ({error})'}; "
                        f"end what listens there, or choose another port with --{use}-port"
                    ) from None

    @property
    def grpc(self) -> str:
        return hosts.join(self.host, self.grpc_port)

    @property
    def http(self) -> str:
        """Where HTTP is open; where it is not, `TritonServer.http` says where it answers health."""
        return f"http://{hosts.join(self.host, self.http_port)}"

    @property
    def metrics(self) -> str:
        return f"http://{hosts.join(self.metrics_host, self.metrics_port)}/metrics"


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens as a server's own would."""
    family, kind, protocol, *_ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
