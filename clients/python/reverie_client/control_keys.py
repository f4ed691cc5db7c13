"""The random control keys of the servers on this machine: files that only their user can read, named by the address.

A server without a control key of its own makes one up and leaves it here while it runs; whoever publishes on the
same machine, as the same user, finds it by the server's address. Knows nothing about Triton.

The files lie in a folder "reverie" of $XDG_RUNTIME_DIR, which lives as long as a login, or where there is none in the
user's cache. A lock on a file says that its server runs, so what a killed server left is found and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from reverie_client import hosts
from reverie_client.credentials import checked_key
from reverie_client.errors import SecurityError

_NEW = ".new"


@dataclass(frozen=True)
class ControlKeyFile:
    """The control key of a running server.

    Attributes:
        descriptor: open and locked for as long as the server runs.
    """

    path: Path
    descriptor: int

    @classmethod
    def write(cls, host: str, port: int, key: str) -> ControlKeyFile:
        """Leave `key` for the publishers of this machine, and remove what servers left that were killed.

        Raises:
            SecurityError: there is no folder that is this user's alone, or nothing can be written into it.
        """
        folder = _writable_folder()
        path = folder / _file_name(hosts.local_name(host) or host, port)
        try:
            with _locked(folder):
                _sweep(folder)
                return cls(path, _write_locked(path, key))
        except OSError as error:
            raise SecurityError(f"the control key cannot be left in {path}: {error.strerror}; {_ALTERNATIVE}") from None

    def remove(self) -> None:
        """Take the key away; one that another server has left in its place stays."""
        with contextlib.suppress(OSError), _locked(self.path.parent):
            if os.path.samestat(os.fstat(self.descriptor), self.path.lstat()):
                self.path.unlink()
        os.close(self.descriptor)


_ALTERNATIVE = "or set REVERIE_CONTROL_KEY for the server and for those who publish"


def find(address: str) -> str | None:
    """The key that the server at gRPC address `address` left on this machine.

    Any spelling of this machine will do. Nothing is found for another one: its server must be sent no key of ours.

    Raises:
        SecurityError: there is a file that others could have written.
    """
    target = hosts.split_target(address)
    name = hosts.local_name(target[0]) if target else None
    if target is None or name is None:
        return None
    for folder in _folders():
        with contextlib.suppress(FileNotFoundError):
            return _read(folder, _file_name(name, target[1]))
    return None


def _folders() -> Iterator[Path]:
    """Where keys may lie: a service has no $XDG_RUNTIME_DIR where its user's login has one, so there are two."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and _is_own_folder(runtime):
        yield runtime / "reverie"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # A user without a home.
        yield (cache if cache.is_absolute() else Path.home() / ".cache") / "reverie" / "control-keys"


def _is_own_folder(folder: Path) -> bool:
    """Not so for root who kept another user's environment."""
    return folder.is_dir() and folder.stat().st_uid == os.geteuid()


def _file_name(host: str, port: int) -> str:
    """With this machine's name: several may share a home."""
    return quote(f"{socket.gethostname()}-{host}-{port}", safe="")


def _writable_folder() -> Path:
    folder = next(_folders(), None)
    if folder is None:
        raise SecurityError(f"there is no folder for the control key: set XDG_RUNTIME_DIR or HOME, {_ALTERNATIVE}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SecurityError(f"{folder}: {error.strerror}; make it a folder of your own, {_ALTERNATIVE}") from None
    _check_folder(folder)
    return folder


def _check_folder(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SecurityError(f"{folder} is a link or a file; accepted: a folder of your own; remove it")
    _check_owner(found, folder)


def _check_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise SecurityError(f"{path} belongs to user {found.st_uid}; accepted: your own, {os.geteuid()}; remove it")
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise SecurityError(f"{path} is open to other users (mode {mode:03o} for them); close it with chmod go= {path}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time, so that nobody sweeps away what another is just putting in place."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_locked(path: Path, key: str) -> int:
    """The open descriptor of the locked file; nobody ever sees it half written or unlocked."""
    new = path.with_name(path.name + _NEW)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, key.encode())
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.replace(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove the files of this machine that no server has locked."""
    for path in folder.glob(f"{quote(socket.gethostname(), safe='')}-*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.name.endswith(_NEW) or not _is_locked(path):
                path.unlink()


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(folder: Path, name: str) -> str:
    _check_folder(folder)
    path = folder / name
    try:
        # Without waiting for a writer, if somebody has put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SecurityError(f"the control key {path} cannot be read: {error.strerror}; remove it") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SecurityError(f"{path} is no ordinary file; remove it")
        _check_owner(found, path)
        return checked_key(file.read().decode(errors="replace"), str(path))
