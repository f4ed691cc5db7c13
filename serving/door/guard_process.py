"""The guard's process, as the door starts and watches it. Knows nothing of what it checks."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from reverie_client.credentials import SECRET_VARIABLES

from serving.door.errors import DoorError
from serving.parent import dying_with_this

_PROJECT = Path(__file__).resolve().parents[2]
_STOP_S = 3.0


@dataclass
class GuardProcess:
    """One guard.

    Attributes:
        socket: where it takes calls.
        triton: Triton's gRPC address.
        keys: the fields of `serving.door.guard.admission.Keys`.
        message_bytes: the largest message.
        requests: calls at a time.
        log: where its output goes; None for this process's stderr.
        interrupt: once it is set, a start that is under way ends at once.
    """

    socket: Path
    triton: str
    keys: Mapping[str, str | None] = field(repr=False)
    message_bytes: int
    requests: int
    log: Path | None = None
    interrupt: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Return the exit status if the process has ended by itself, else None."""
        return self._process.poll() if self._process else None

    def launch(self) -> None:
        """Start it, and come back before it takes calls; see `wait`."""
        self.stop()
        output: IO[bytes] | None = self.log.open("ab") if self.log else None
        try:
            self._process = subprocess.Popen(
                dying_with_this([sys.executable, "-m", "serving.door.guard"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output or sys.stderr,
                env=_environment(),
                start_new_session=True,
            )
        finally:
            if output:
                output.close()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `wait` says that it has ended.
            self._process.stdin.write(json.dumps(self._task()).encode() + b"\n")
            self._process.stdin.flush()

    def wait(self, timeout: float = 20.0) -> None:
        """Wait until it takes calls.

        Raises:
            DoorError: it ended, or does not within `timeout` seconds.
        """
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while not select.select([self._process.stdout], [], [], 0.05)[0]:
            if self.interrupt.is_set():
                raise DoorError("interrupted while the guard was started")
            if time.monotonic() >= deadline:
                raise DoorError(f"the guard took no calls after {timeout:.0f} s")
        if self._process.stdout.readline() != b"ready\n":
            raise DoorError(f"the guard ended while starting; see {self.log or 'its output above'}")

    def stop(self) -> None:
        """End it by a signal, then by force."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _task(self) -> dict[str, object]:
        return {
            "address": f"unix:{self.socket}",
            "triton": self.triton,
            "keys": dict(self.keys),
            "message_bytes": self.message_bytes,
            "requests": self.requests,
        }


def _environment() -> dict[str, str]:
    """Without keys, which come another way."""
    inherited = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return {**inherited, "PYTHONPATH": f"{_PROJECT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}
