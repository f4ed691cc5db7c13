"""Memory, descriptors and threads of the server's processes over time, and the slope of the memory; Linux."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from scipy.stats import theilslopes

from loadtests.slo import SoakBounds

SETTLING = 0.2
"""The first part of a run, left out of the slope: caches fill, allocators grow to their working size."""


@dataclass(frozen=True)
class Usage:
    """What all processes of a server use at one time.

    Attributes:
        at_s: since the sampling began.
        mib: proportional set size: pages that processes share are counted once.
    """

    at_s: float
    mib: float
    processes: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Slope:
    """Growth in MiB per hour, and the interval that holds it with a confidence of 95 %."""

    mib_per_hour: float
    low: float
    high: float


class Sampler:
    """Samples the processes of the session that `pid` leads: the embedded server is started in its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[Usage] = []
        self._began = time.perf_counter()

    def sample(self) -> None:
        """Take a sample now."""
        members = session_of(self.pid)
        usages = [usage for pid in members if (usage := _usage_of(pid)) is not None]
        mib, descriptors, threads = (sum(column) for column in zip(*usages, strict=True)) if usages else (0.0, 0, 0)
        at_s = time.perf_counter() - self._began
        self.samples.append(Usage(at_s, mib, len(usages), int(descriptors), int(threads)))


def session_of(pid: int) -> list[int]:
    """Return the processes of the session of `pid`; none where it has ended."""
    with contextlib.suppress(ProcessLookupError):
        session = os.getsid(pid)
        return [p for p in psutil.pids() if _session(p) == session]
    return []


def slope(samples: Sequence[Usage]) -> Slope | None:
    """Estimate the slope as Theil and Sen do, by a median of slopes, which single peaks do not move; None of under 3 settled samples."""
    end = samples[-1].at_s if samples else 0.0
    settled = [s for s in samples if s.at_s >= SETTLING * end]
    if len(settled) < 3:
        return None
    found = theilslopes([s.mib for s in settled], np.array([s.at_s for s in settled]) / 3600)
    return Slope(*(float(v) for v in (found.slope, found.low_slope, found.high_slope)))


def growth_violations(found: Slope | None, samples: Sequence[Usage], bounds: SoakBounds) -> list[str]:
    """Say how memory breaks `bounds`: only a growth whose whole interval lies above the bound does."""
    if not samples or not samples[-1].processes:
        return ["the server's processes have ended"]
    if found is None:
        return ["too few looks at the memory for a slope; run longer, or look more often"]
    if found.low <= bounds.max_growth_mib_per_hour:
        return []
    interval = f"{found.low:.0f} to {found.high:.0f} MiB an hour"
    return [f"memory grows by {interval}, at most {bounds.max_growth_mib_per_hour:g} promised"]


def _session(pid: int) -> int | None:
    """psutil does not tell sessions."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _usage_of(pid: int) -> tuple[float, int, int] | None:
    """MiB, descriptors and threads; None of a process that has ended meanwhile."""
    try:
        process = psutil.Process(pid)
        return process.memory_full_info().pss / 2**20, process.num_fds(), process.num_threads()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
