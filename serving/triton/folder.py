"""The folder that Triton reads while it runs: its backends, put together for this Python.

Triton reads it whenever it loads a model, weeks after its start, so it lies where no cleaner of temporary files
comes by, is locked, and can be made again at any time. The lock also tells the folders of living servers from
those of dead ones, which `sweep` removes with the shared memory that they left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from reverie import outputs
from reverie.outputs import OutputError
from serving.triton import memory

_NAME = "triton-"
_STUB = "triton_python_backend_stub"
_SHARED_MEMORY = Path("/dev/shm")
_PLAIN = (Path("/var/tmp"), Path("/tmp"))
"""Where a server's folder lies for a user whose own folders have names that Triton cannot take."""
_PLAIN_PATH = re.compile("[A-Za-z0-9/._+=@%,-]+")
"""A path that no shell and no list of folders takes apart."""
_STAND_INS = Path(str(files("serving.triton") / "backends"))


@dataclass
class ServerFolder:
    """A locked folder of one server.

    Attributes:
        path: the folder.
        wheel: the folder of the wheel that holds `backends` and `python_backend_stubs`.
    """

    path: Path
    wheel: Path
    _lock: int | None = field(default=None, init=False, repr=False)
    _links: dict[str, Path] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def create(cls, wheel: Path) -> ServerFolder:
        """Make a folder in the first of `places` that can hold one; sweeps all of them first.

        Raises:
            OSError: none of them can.
        """
        sweep()
        errors: list[OSError] = [
            FileNotFoundError("neither the user's cache nor a temporary folder can hold the server's files")
        ]
        for place in places():
            folder = cls(place / f"{_NAME}{secrets.token_hex(6)}", wheel)
            try:
                folder.restore()
            except OSError as error:
                folder.remove()
                errors.append(error)
            else:
                return folder
        raise errors[-1]

    @property
    def backends(self) -> Path:
        """What Triton takes as `--backend-directory`."""
        return self.path / "backends"

    @property
    def metrics(self) -> Path:
        """Where the models' processes keep their metrics' values; made by who serves them."""
        return self.path / "metrics"

    def plain(self, path: Path, name: str) -> Path:
        """Return `path` as Triton's command lines and lists of folders can carry it: itself, or a link to it.

        Triton 2.51 gives its models' processes their arguments through a shell, unquoted, and reads paths with
        non-ASCII characters wrongly; a colon separates the folders of an environment variable.

        Args:
            path: absolute.
            name: of the link.

        Raises:
            OSError: the link cannot be made.
        """
        if _is_plain(path):
            return path
        self._links[name] = path
        self._restore_links()
        return self._link(name)

    @property
    def shared_memory_prefix(self) -> str:
        """Of the names of this server's regions in /dev/shm."""
        return _shared_memory_prefix(self.path)

    def shared_memory(self) -> list[Path]:
        """Return the server's regions in /dev/shm."""
        return list(_SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"))

    def restore(self) -> None:
        """Make the folder, and whatever is missing of it; what is there stays.

        Raises:
            OSError: it cannot be written.
        """
        try:
            self._restore()
        except OutputError as error:
            raise OSError(str(error)) from None

    def _restore(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hold()
        for name, source in self._files():
            if not (self.backends / name).exists():
                _place(source, self.backends / name)
        if not (stub := self.backends / "python" / _STUB).exists():
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            stub.parent.mkdir(parents=True, exist_ok=True)
            memory.write_stub(stub, self.wheel / "python_backend_stubs" / version / _STUB)
        self._restore_links()

    def remove(self) -> None:
        """Remove the folder and the server's shared memory; nothing may use them any more."""
        shutil.rmtree(self.path, ignore_errors=True)
        remove_shared_memory(self.shared_memory_prefix)
        self._let_go()

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Every file of the backends but the stub, by its path below them."""
        for source in (self.wheel / "backends" / "python").iterdir():
            if source.is_file():
                yield f"python/{source.name}", source
        for source in _STAND_INS.glob("*/*.py"):
            yield f"{source.parent.name}/{source.name}", source

    def _restore_links(self) -> None:
        for name, path in self._links.items():
            if not (link := self._link(name)).is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path, target_is_directory=True)

    def _link(self, name: str) -> Path:
        return self.path / "links" / name

    def _hold(self) -> None:
        """Lock the folder, also one that was made in place of the locked one."""
        if self._lock is not None and os.path.samestat(os.fstat(self._lock), self.path.stat()):
            return
        self._let_go()
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _place(source: Path, target: Path) -> None:
    """Link a file, which takes no space, or copy it whole; Triton refuses symbolic links that lead out of the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # On another file system, or another user's.
        with outputs.replacing(target) as unfinished:
            shutil.copyfile(source, unfinished)  # Not its mode: it may be write-protected.


def places() -> list[Path]:
    """Return where a server's folder may lie, the best first: the user's cache, which nobody sweeps, or a temporary folder.

    Not XDG_RUNTIME_DIR, which goes when the user logs out. Only plain paths: see `ServerFolder.plain`.
    """
    found: list[Path] = []
    with contextlib.suppress(RuntimeError):  # A user without a home.
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()))
    with contextlib.suppress(FileNotFoundError):
        found.append(Path(tempfile.gettempdir()))
    own = [folder / "reverie" for folder in found if folder.is_absolute() and _is_plain(folder)]
    return own or [place for folder in _PLAIN if _is_ours(place := folder / f"reverie-{os.geteuid()}")]


def _is_ours(place: Path) -> bool:
    """Or nobody's yet: everybody may write where it lies."""
    try:
        found = place.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def sweep() -> None:
    """Remove what servers that were killed have left: their folders and shared memory."""
    for place in places():
        for folder in place.glob(f"{_NAME}*"):
            with contextlib.suppress(OSError), _locked(folder):
                # One that was made a moment ago may not be locked yet.
                if time.time() - folder.stat().st_mtime > 1:
                    remove_shared_memory(_shared_memory_prefix(folder))
                    shutil.rmtree(folder, ignore_errors=True)


def remove_shared_memory(prefix: str) -> None:
    """Remove the regions in /dev/shm whose names begin with `prefix`."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises BlockingIOError where a living server has the lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _shared_memory_prefix(folder: Path) -> str:
    return f"reverie_{folder.name.removeprefix(_NAME)}_"


def _is_plain(path: Path) -> bool:
    return _PLAIN_PATH.fullmatch(str(path)) is not None
