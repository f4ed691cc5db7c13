"""Processes of this machine, as psutil sees them; one that ends while it is looked at is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """A process that had not ended when it was looked at.

    Attributes:
        parent: the pid of its parent.
        is_stopped: whether a signal has stopped it, as SIGSTOP does.
        arguments: its command line; empty for a thread of the kernel.
    """

    pid: int
    parent: int
    is_stopped: bool
    arguments: tuple[str, ...]


def running_processes() -> Iterator[Process]:
    """Yield every process of this machine that can be seen and is not a zombie."""
    return filter(None, map(_snapshot, psutil.process_iter()))


def children(pid: int) -> list[Process]:
    """Return the children of a process, without zombies; none where the process has ended."""
    return [child for child in map(_snapshot, _children(pid, recursive=False)) if child]


def descendants(pid: int) -> set[int]:
    """Return the pids of a process's children, and of theirs, without zombies."""
    return {child.pid for child in map(_snapshot, _children(pid, recursive=True)) if child}


def find(pid: int) -> Process | None:
    """Return the process; None where it has ended."""
    try:
        return _snapshot(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return None


def _children(pid: int, recursive: bool) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive)
    except psutil.NoSuchProcess:
        return []


def _snapshot(process: psutil.Process) -> Process | None:
    try:
        with process.oneshot():
            status = process.status()
            if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return None
            return Process(process.pid, process.ppid(), status == psutil.STATUS_STOPPED, tuple(process.cmdline()))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
