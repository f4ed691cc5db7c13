"""A process that runs one text engine, as the pool that started it sees it; `worker` is what runs in it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from serving.text.request import TextRequest

log = logging.getLogger("reverie")

_PROJECT = Path(__file__).resolve().parents[2]
_END_SECONDS = 10


@dataclass(frozen=True)
class _SubRequest:
    """A continuation of a request, which one process makes."""

    request: TextRequest
    client: str


@dataclass(eq=False)
class EngineProcess:
    """An engine's process; guarded by the pool's lock.

    Attributes:
        work: what it works on, by number.
        ready: it has loaded the model.
    """

    process: subprocess.Popen
    connection: Connection
    work: dict[int, _SubRequest] = field(default_factory=dict)
    ready: bool = False

    @classmethod
    def start(cls, load_fd: int, *arguments: str) -> EngineProcess:
        """Start a process; `await_ready` tells when it can be used.

        Args:
            load_fd: shared memory with the number of continuations that all processes have.
            arguments: folder, precision, slots and slots of one client, as `worker` takes them.
        """
        ours, theirs = Pipe()
        paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [_python(), "-m", "serving.text.worker", str(theirs.fileno()), str(load_fd), *arguments],
            pass_fds=(theirs.fileno(), load_fd),
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        return cls(process, ours)

    def await_ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            RuntimeError: it could not be.
        """
        try:
            kind, *why = self.connection.recv()
        except EOFError:
            kind, why = "failed", [f"its process ended with status {self.process.wait()}"]
        if kind != "ready":
            raise RuntimeError(f"the text engine could not load the model: {why[0]}")
        self.ready = True

    @property
    def load(self) -> int:
        """Continuations that it has to make."""
        return len(self.work)

    @property
    def has_ended(self) -> bool:
        """Whether the process is no longer there."""
        return self.process.poll() is not None

    def load_of(self, client: str) -> int:
        """Those of one client."""
        return sum(part.client == client for part in self.work.values())

    def begin(self, number: int, request: TextRequest) -> None:
        """Let it make the next continuation of a request."""
        task = request.next_task()
        self.work[number] = _SubRequest(request, task.client)
        self._send("task", number, task)

    def cancel(self, request: TextRequest) -> None:
        """Tell it that nobody wants a request's text any more."""
        for number, part in self.work.items():
            if part.request is request:
                self._send("cancel", number)

    def end(self) -> None:
        """Wait until it has ended; it does when its connection is closed."""
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _send(self, *message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            log.warning("the text engine's process %d does not listen", self.process.pid)


def _python() -> str:
    """The interpreter of this environment; in Triton, `sys.executable` is not one."""
    own = Path(sys.executable or "")
    if own.name.startswith("python"):
        return str(own)
    found = shutil.which("python3", path=f"{sys.prefix}/bin") or shutil.which("python3")
    if found is None:
        raise RuntimeError("no python3 on PATH; the text engine runs in processes of its own")
    return found
