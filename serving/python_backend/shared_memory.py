"""The shared memory through which tensors travel between Triton and a model's process: whether an answer fits.

Knows nothing about Triton's API: the process's own region is named in its command line, and grows as far as /dev/shm does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reverie.errors import ToolkitError

TOO_LARGE = "too large for the server's shared memory"
_FOLDER = Path("/dev/shm")
_SPARE = 2**20
"""What Triton itself keeps in a region."""


class NoRoom(ToolkitError):
    """Tensors do not fit into shared memory."""


def check_room(answer: Iterable[np.ndarray], request: Iterable[np.ndarray]) -> None:
    """Raise NoRoom if `answer` does not fit beside `request`, into what the region has or can still grow by."""
    needed = _size(answer)
    region = _region() if needed > _SPARE else None
    if region is None:
        return
    room = region.stat().st_size - _size(request) - _SPARE + shutil.disk_usage(_FOLDER).free
    if needed > room:
        raise NoRoom(f"{needed} bytes into {room}")


def total_mib() -> int:
    """All of the shared memory of this machine, or container."""
    return shutil.disk_usage(_FOLDER).total // 2**20


def _region() -> Path | None:
    """This process's; None where it is no model's process."""
    words = Path("/proc/self/cmdline").read_bytes().decode(errors="replace").split("\0")
    return next((path for word in words[1:4] if word and (path := _FOLDER / word.lstrip("/")).is_file()), None)


def _size(arrays: Iterable[np.ndarray]) -> int:
    return sum(sum(map(len, a.reshape(-1))) if a.dtype == object else a.nbytes for a in arrays)
