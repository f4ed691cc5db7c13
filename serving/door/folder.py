"""The folder of a door: its sockets and what Envoy reads, for its user alone, and locked for as long as the door lives.

The lock tells the folders of living doors from those of doors that were killed, which the next one removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from serving.door.errors import DoorError

_PREFIX = "reverie-door-"
_LOCK = "lock"
_PLACES = ("/tmp", "/var/tmp")
_LONGEST_PLACE = 68
"""Linux takes 107 bytes for a socket's path, of which a folder's and a socket's own names take some 40."""
_locks: dict[Path, int] = {}
"""The open descriptor of each folder of this process."""


def make_folder() -> Path:
    """Make and lock a folder that only this user can enter; its path is short and plain, as a socket's has to be.

    Raises:
        DoorError: there is no place for it.
    """
    place = _place()
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    descriptor = os.open(folder / f".{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (folder / f".{_LOCK}").rename(folder / _LOCK)  # Whoever sweeps sees it locked, or not at all.
    _locks[folder] = descriptor
    return folder


def _place() -> Path:
    """The user's folder for temporary files, or everybody's where that one's path is too long or has odd characters."""
    for place in (tempfile.gettempdir(), *_PLACES):
        if place.isascii() and len(place) <= _LONGEST_PLACE and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise DoorError(
        f"no place for the door's sockets: of {tempfile.gettempdir()}, {', '.join(_PLACES)} none is writable, plain and at most "
        f"{_LONGEST_PLACE} characters long; set TMPDIR to one that is"
    )


def remove_folder(folder: Path) -> None:
    """Remove a door's folder with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if (descriptor := _locks.pop(folder, None)) is not None:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.geteuid() and not _is_locked(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_locked(file: Path) -> bool:
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
