"""Take secrets off the command line of a running process, where every user of the machine can read them; Linux.

Triton 2.51 takes keys as options only. It copies them when it starts, so its command line can be written over then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_ARG_START, _ARG_END = 47, 48
"""Fields of /proc/PID/stat, from 0: where in its memory a process's command line lies."""


def hide(pid: int, secrets: Iterable[str]) -> None:
    """Write asterisks over `secrets` in the command line of process `pid`, which must have read it before.

    Raises:
        OSError: the process has ended, or this one may not write into its memory.
    """
    start, end = _span(pid)
    with (Path("/proc") / str(pid) / "mem").open("r+b", buffering=0) as memory:
        line = os.pread(memory.fileno(), end - start, start)
        hidden = line
        for secret in secrets:
            hidden = hidden.replace(f"={secret}\0".encode(), f"={'*' * len(secret)}\0".encode())
        if hidden != line:
            os.pwrite(memory.fileno(), hidden, start)


def _span(pid: int) -> tuple[int, int]:
    text = (Path("/proc") / str(pid) / "stat").read_text()
    fields = ["", "", *text.rsplit(")", 1)[1].split()]  # The name before it may hold anything.
    return int(fields[_ARG_START]), int(fields[_ARG_END])
