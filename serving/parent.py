"""Make a process end with its parent, without running code between fork and exec, where gRPC's locks may be held.

As a program, `python -I -S parent.py PARENT COMMAND...`, it becomes COMMAND, which is killed when the process PARENT ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, its parent, ends; at once if it has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def dying_with_this(command: Sequence[str]) -> list[str]:
    """The command line that starts `command` as a process that ends with this one."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
