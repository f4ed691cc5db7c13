"""`reverie serve` as a process that can be broken without breaking this machine.

It has a mount namespace of its own where that is allowed, with a small `/dev/shm` and a small disk for its log, which
can be filled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.memory import session_of
from serving.triton import processes
from serving.triton.address import ListenAddress
from serving.triton.errors import ServerError
from serving.triton.server import PROJECT

SHM_MIB, LOG_MIB = 256, 1
_STOP_S = 60
_REGIONS = "shm-region-prefix-name="
"""In Triton's command line, before what the names of its regions begin with."""


@dataclass(frozen=True)
class Resources:
    """What a server holds.

    Attributes:
        descriptors, threads: of Triton's own process.
        regions: files in its shared memory.
    """

    processes: int
    descriptors: int
    threads: int
    regions: int


@dataclass
class Served:
    """A running server.

    Attributes:
        address: of gRPC; repository: its own copy.
        isolated: it has a small `/dev/shm` and log disk of its own.
    """

    process: subprocess.Popen
    address: str
    repository: Path
    isolated: bool

    @property
    def triton(self) -> int:
        """Triton's process now.

        Raises:
            LookupError: none runs.
        """
        for child in processes.children(self.process.pid):
            if child.arguments and Path(child.arguments[0]).name == "tritonserver":
                return child.pid
        raise LookupError("no tritonserver runs")

    def model_processes(self, model: str) -> list[int]:
        """Return the processes of a Python model."""
        return [p.pid for p in processes.children(self.triton) if f"/{model}/" in " ".join(p.arguments)]

    def children_with(self, program: str) -> list[int]:
        """Return the server's own children that have `program` at the end of a word of their command line."""
        children = processes.children(self.process.pid)
        return [child.pid for child in children if any(word.endswith(program) for word in child.arguments)]

    @property
    def door_folder(self) -> Path:
        """Where Envoy reads its configuration.

        Raises:
            LookupError: no door is open.
        """
        for child in processes.children(self.process.pid):
            if "-c" in child.arguments and child.arguments[0].endswith("/envoy"):
                return Path(child.arguments[child.arguments.index("-c") + 1]).parent
        raise LookupError("no Envoy runs")

    def inside(self, path: str) -> Path:
        """Return where a path of the server lies for this process."""
        return Path(f"/proc/{self.process.pid}/root{path}")

    def resources(self) -> Resources:
        """Count what the server holds now."""
        triton = psutil.Process(self.triton)
        return Resources(len(session_of(triton.pid)), triton.num_fds(), triton.num_threads(), len(self._regions()))

    def _regions(self) -> list[Path]:
        """In shared memory, but for those of other servers, which are seen where this one is not isolated."""
        ours = processes.descendants(self.process.pid)
        arguments = [a for p in processes.running_processes() if p.pid not in ours for a in p.arguments]
        others = tuple(filter(None, (a.partition(_REGIONS)[2] for a in arguments)))
        return [path for path in self.inside("/dev/shm").iterdir() if not path.name.startswith(others)]


@contextlib.contextmanager
def serving(log: Path, without: Iterable[str] = ()) -> Iterator[Served]:
    """Serve a copy of the shipped repository until the context ends.

    Args:
        without: models that are left out.

    Raises:
        ServerError: it was not ready.
    """
    with tempfile.TemporaryDirectory(prefix="reverie-faults-") as folder:
        repository, disk = Path(folder) / "model_repository", Path(folder) / "log"
        shutil.copytree(PROJECT / "model_repository", repository, ignore=shutil.ignore_patterns(*without))
        disk.mkdir()
        address, isolated = ListenAddress.free(), can_isolate()
        ports = [f"--{p}-port={getattr(address, f'{p}_port')}" for p in ("grpc", "http", "metrics")]
        serve = [sys.executable, "-m", "reverie.cli", "serve", f"--repository={repository}", *ports]
        mounts = f"mount -t tmpfs -o size={SHM_MIB}m shm /dev/shm && mount -t tmpfs -o size={LOG_MIB}m log {disk} && "
        shell = f'{mounts if isolated else ""}exec "$@" 2>>{disk}/server.log'
        command = [*(["unshare", "--mount"] if isolated else []), "sh", "-c", shell, "serve", *serve]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("ready"):
                raise ServerError("the server for the faults did not start")
            yield Served(process, address.grpc, repository, isolated)
        finally:
            with contextlib.suppress(OSError):
                shutil.copy(Path(f"/proc/{process.pid}/root{disk}/server.log"), log)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def can_isolate() -> bool:
    """Say whether a process here can have a /dev/shm of its own."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=1m shm /dev/shm"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to processes; those that have ended are left out."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
