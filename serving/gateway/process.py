"""The gateway's process, as whoever starts it beside Triton and the door holds it."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reverie_client import hosts
from reverie_client.credentials import SECRET_VARIABLES

from reverie.errors import ToolkitError
from serving import local_http
from serving.gateway.options import GatewayOptions
from serving.parent import dying_with_this

_STOP_SECONDS = 15.0
_PROJECT = Path(__file__).resolve().parents[2]


class GatewayError(ToolkitError):
    """The gateway cannot start, or ended by itself."""


@dataclass
class Gateway:
    """A process that answers HTTP at `address` and asks the gRPC server at `triton_address`.

    It ends with the thread that started it.

    Attributes:
        address: HOST:PORT, of this machine alone, or unix:PATH.
        triton_address: as gRPC takes it.
        log: where its output goes; None for this process's own.
        interrupt: once it is set, a start that is under way ends at once.
    """

    address: str
    triton_address: str
    options: GatewayOptions = field(default_factory=GatewayOptions)
    log: Path | None = None
    interrupt: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def start(self, timeout: float = 30.0) -> None:
        """Start it, and wait until it answers; see `launch` and `wait`."""
        self.launch()
        self.wait(timeout)

    def launch(self) -> None:
        """Start it, and come back before it answers.

        Raises:
            GatewayError: something else listens there.
        """
        self.stop()
        self._check_free()
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = stack.enter_context(self.log.open("ab")) if self.log else None
            self._process = subprocess.Popen(
                dying_with_this(self._command()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=self._environment(),
                start_new_session=True,
            )

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until it answers; one that does not is ended.

        Raises:
            GatewayError: it ended, does not answer in time, or was interrupted.
        """
        deadline = time.monotonic() + timeout
        while not self.alive():
            if failure := self._failure(timeout, deadline):
                self.stop()
                raise GatewayError(failure)
            self.interrupt.wait(0.02)

    def _failure(self, timeout: float, deadline: float) -> str:
        """Why there is no more waiting for it; empty while there is."""
        if (status := self.poll()) is not None or self._process is None:
            return f"the gateway ended with status {status}; see {self.log or 'its output above'}"
        if self.interrupt.is_set():
            return "interrupted while the gateway was started"
        if time.monotonic() > deadline:
            return f"the gateway did not answer at {self.address} within {timeout:g} s"
        return ""

    def alive(self) -> bool:
        """Whether the gateway answers, whatever Triton does."""
        return self._get("/healthz") == http.HTTPStatus.OK

    def ready(self) -> bool:
        """Whether Triton answers it too, and has all its models."""
        return self._get("/readyz") == http.HTTPStatus.OK

    @property
    def pid(self) -> int | None:
        """None where it does not run."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit status of a process that has ended by itself, else None."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """End it; answers that are under way have 10 s. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check_free(self) -> None:
        """Else what listens there would be taken for the gateway. A socket of one that was killed is taken away."""
        if self.address.startswith(local_http.UNIX):
            Path(self.address.removeprefix(local_http.UNIX)).unlink(missing_ok=True)
            return
        host, port = hosts.split(self.address)
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            raise GatewayError(f"{self.address} cannot be listened on: {error.strerror}; choose another port") from None

    def _get(self, path: str) -> int:
        connection = local_http.connect(self.address, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "serving.gateway", "--listen", self.address, "--triton", self.triton_address),
            *self.options.arguments(),
        ]

    def _environment(self) -> dict[str, str]:
        """Without keys: the gateway sends those of its callers."""
        kept = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
        return {**kept, "PYTHONPATH": f"{_PROJECT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}
