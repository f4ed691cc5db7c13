"""Processes that a signal has stopped: their callers would wait for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.triton import processes

HUNG_S = 10.0
"""How long Triton may stand still: longer than a debugger's glance or a suspended machine's waking, shorter than a caller's patience.
A model's process may not: after a second Triton takes it for dead, and that ends in an abort of Triton as often as not."""


@dataclass
class HungProcesses:
    """Ends processes that a signal has stopped and that nobody continues; their callers would wait for ever.

    Attributes:
        since: when each was first seen stopped, by `time.monotonic`.
    """

    since: dict[int, float] = field(default_factory=dict)

    def end(self, triton: int, say: Callable[[str], None]) -> None:
        """Kill the models' processes that are stopped, and Triton if it has been for `HUNG_S`."""
        now = time.monotonic()
        watched = [processes.find(triton), *processes.children(triton)]
        self.since = {p.pid: self.since.get(p.pid, now) for p in watched if p and p.is_stopped}
        for pid, since in self.since.items():
            if pid != triton or now - since >= HUNG_S:
                say(f"process {pid} has been stopped by a signal; ending it")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
