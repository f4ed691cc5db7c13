"""Processes as /proc shows them; Linux."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that has not ended.

    Attributes:
        state: one letter; "T" has been stopped by a signal.
        arguments: its command line.
    """

    pid: int
    parent: int
    state: str
    arguments: tuple[str, ...]


def running_processes() -> Iterator[Process]:
    """Every process of this machine that can be seen and is no zombie."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if state != "Z":
            yield Process(int(entry.name), int(parent), state, tuple(arguments))


def descendants(pid: int) -> set[int]:
    """The children of a process, and theirs."""
    parents = {process.pid: process.parent for process in running_processes()}
    found, grew = {pid}, True
    while grew:
        children = {child for child, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return found - {pid}
