"""A bound on the memory of Triton's own process, so that a message which inflates ends it and not the machine.

gRPC inflates a compressed message before anybody can look at it: a megabyte becomes gigabytes. The kernel then refuses
Triton the memory (RLIMIT_DATA), it ends, and the supervisor starts it again. The processes of its models inherit the
bound and lift it: see `write_stub`.
"""

from __future__ import annotations

import contextlib
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from reverie import outputs

_SHARE = 2
ENOUGH_SHARED_MEMORY = 256 * 2**20
"""A model takes 2 MiB, and a picture of 2048x2048 pixels 28 MiB in each of two; larger ones go in tiles of that size."""
_UNLIMITED = 2**60
"""Version 1 of cgroups says a number near 2**63 where it means no limit."""

_STUB = """#!/bin/sh
# Triton's own bound on memory is not for its models: they need more, and their inputs are bounded.
ulimit -S -d "$(ulimit -H -d)"
exec {stub} "$@"
"""


def machine_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process and its children may take together, in bytes: the machine's, or its cgroup's if that is less."""
    return min([psutil.virtual_memory().total, *_cgroup_limits(proc, cgroups)])


def default_limit() -> int:
    """Return half of the machine's memory, in bytes, so that the models keep the rest."""
    return machine_bytes() // _SHARE


def shared_memory_warning(folder: Path = Path("/dev/shm")) -> str | None:
    """Say what to do about too little shared memory, through which the models' tensors go; None where there is enough."""
    total = shutil.disk_usage(folder).total
    if total >= ENOUGH_SHARED_MEMORY:
        return None
    return (
        f"{folder} has {total // 2**20} MiB: large pictures will be refused; give the server "
        f"{ENOUGH_SHARED_MEMORY // 2**20} MiB or more (docker run --shm-size=2g, as in deploy/compose.yaml)"
    )


def limit(pid: int, more_bytes: int) -> None:
    """Let process `pid` take `more_bytes` more memory than it has reserved now.

    Relative, because most of what an idle Triton has reserved are stacks of threads that are never touched; their
    number depends on the models and on the processors.

    Raises:
        OSError: the process has ended.
    """
    _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
    bound = reserved_bytes(pid) + more_bytes
    resource.prlimit(pid, resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def reserved_bytes(pid: int) -> int:
    """Return what RLIMIT_DATA counts of a process, in bytes: its private, writable memory, whether touched or not.

    From /proc and not from psutil, whose `memory_info().data` has the stack too, which that limit does not count.

    Raises:
        OSError: the process has ended.
    """
    status = (Path("/proc") / str(pid) / "status").read_text()
    found = re.search(r"^VmData:\s*(\d+) kB", status, re.MULTILINE)
    if not found:  # It waits for its parent to see that it has ended.
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) * 1024


def write_stub(path: Path, stub: Path) -> None:
    """Write a script in the place of Triton's `stub` for Python models; it lifts the bound and goes on as the stub.

    Raises:
        reverie.outputs.OutputError: it cannot be written.
    """
    with outputs.replacing(path) as unfinished:
        unfinished.write_text(_STUB.format(stub=shlex.quote(str(stub))))
        unfinished.chmod(0o755)


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """The limits of every cgroup that this process is in, in both versions; psutil does not read them."""
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield from _limits_up(cgroups / "memory", name, "memory.limit_in_bytes")
            elif not controllers:
                yield from _limits_up(cgroups, name, "memory.max")


def _limits_up(root: Path, name: str, file: str) -> Iterator[int]:
    """From a cgroup up to `root`; inside a container its own one is the root."""
    folder = root / name.lstrip("/")
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # Absent, or "max".
            if (found := int((place / file).read_text())) < _UNLIMITED:
                yield found
        if place == root:
            return
