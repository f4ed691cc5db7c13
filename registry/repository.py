"""The model repository's layout, and how a version gets into it whole or not at all.

A version is staged outside the repository on the same file system, synced, and renamed into `<model>/<number>`; within the
model's folder where the repository is a mount point, or nobody may write beside it. Triton never sees half of one, and none
at all before `config.pbtxt` names it, which is replaced by one rename too. Knows nothing about what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reverie.errors import ToolkitError

_held: dict[Path, int] = {}
"""Locks on this process's staging folders; a folder whose lock is free belongs to a process that died."""


class RepositoryError(ToolkitError):
    """The repository cannot be written, or is being written by another; the message says what to do."""


@dataclass(frozen=True)
class Repository:
    """A folder that Triton serves."""

    path: Path

    def versions(self, model: str) -> list[int]:
        """Published versions of `model`, oldest first."""
        folder = self.path / model
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def folder(self, model: str, version: int) -> Path:
        """Where a version is."""
        return self.path / model / str(version)

    def publish(self, model: str, files: Path) -> int:
        """Move the folder `files` into place as the next version of `model`.

        Args:
            files: on the repository's file system (see `staging`); it is gone afterwards.

        Returns:
            The version's number.
        """
        _sync_tree(files)
        target = self.path / model
        target.mkdir(parents=True, exist_ok=True)
        while True:
            version = max(self.versions(model), default=0) + 1
            try:
                # Fails where another export took the number first: the target is then a filled folder.
                files.rename(target / str(version))
            except OSError:
                if version in self.versions(model):
                    continue
                raise
            try:
                _sync(target)
            except BaseException:
                self.withdraw(model, version)
                raise
            return version

    def place(self, model: str, version: int, files: Path) -> None:
        """As `publish`, under the number that the version has elsewhere.

        Raises:
            RepositoryError: another version has this number.
        """
        _sync_tree(files)
        target = self.path / model
        target.mkdir(parents=True, exist_ok=True)
        if version in self.versions(model):
            raise RepositoryError(f"{model} has a version {version} already")
        files.rename(target / str(version))
        _sync(target)

    def withdraw(self, model: str, version: int) -> None:
        """Remove a version; renamed away first, so that it disappears at once, and without taking space."""
        gone = self._staging_place(model) / f"{self._prefix}{model}-{version}-{secrets.token_hex(4)}"
        self.folder(model, version).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def write(self, model: str, name: str, contents: str | bytes) -> bool:
        """Replace the file `name` of `model` atomically; an unchanged one is not touched.

        Returns:
            Whether it changed.
        """
        path = self.path / model / name
        contents = contents.encode() if isinstance(contents, str) else contents
        if path.exists() and path.read_bytes() == contents:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.staged(model) as folder:
            staged = folder / path.name
            staged.write_bytes(contents)
            _sync(staged)
            staged.rename(path)
        _sync(path.parent)
        return True

    @contextlib.contextmanager
    def restoring(self, model: str, names: Sequence[str]) -> Iterator[Callable[[], None]]:
        """Gives a function that puts the files `names` of `model` back as they are now, also on a full disk."""
        paths = [self.path / model / name for name in names]
        with self.staged(model) as kept:
            links = {path: kept / str(i) for i, path in enumerate(paths) if path.exists()}
            for path, link in links.items():
                os.link(path, link)

            def restore() -> None:
                for path in paths:
                    if path not in links:
                        path.unlink(missing_ok=True)
                    elif not path.exists() or not path.samefile(links[path]):
                        links[path].rename(path)

            yield restore

    def touch(self, model: str) -> None:
        """Make the files of `model`'s versions look changed, so that Triton reloads it when asked to.

        A newer `config.pbtxt` alone is not enough: Triton compares its contents.
        """
        for version in self.versions(model):
            for file in _files(self.folder(model, version)):
                os.utime(file)

    def staging(self, model: str) -> Path:
        """A new empty folder from which files can be renamed into `model`'s; `sweep` removes it if this process dies."""
        folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._staging_place(model)))
        _held[folder] = os.open(folder, os.O_RDONLY)
        fcntl.flock(_held[folder], fcntl.LOCK_EX)
        return folder

    @contextlib.contextmanager
    def staged(self, model: str) -> Iterator[Path]:
        """A staging folder that is gone afterwards, with whatever is left in it."""
        folder = self.staging(model)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(_held.pop(folder))

    def sweep(self) -> None:
        """Remove the staging folders of processes that died. Call it under `lock`."""
        beside, within = self.path.resolve().parent, self.path.resolve()
        for folder in (*_named(beside, self._prefix), *_named(within, "*", self._prefix)):
            if folder in _held:
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # One that was made a moment ago may not be locked yet.
                    if time.time() - folder.stat().st_mtime > 1:
                        shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(descriptor)

    @contextlib.contextmanager
    def lock(self, timeout: float = 600.0) -> Iterator[None]:
        """Let no other process change the repository meanwhile; a killed process lets go of it.

        Raises:
            RepositoryError: another one had it for all of `timeout` seconds, or the folder cannot be written.
        """
        beside = self.path.resolve().parent if self._may_stage_beside else self.path.resolve()
        path = beside / f".{self.path.name}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RepositoryError(
                f"{path} cannot be written: {error.strerror}; publishing needs to write there"
            ) from None
        try:
            _wait_for(descriptor, timeout, path)
            yield
        finally:
            os.close(descriptor)

    def _staging_place(self, model: str) -> Path:
        """Outside the repository if files can be renamed from there; Triton takes no other folder of it than a model's."""
        if self._may_stage_beside:
            return self.path.resolve().parent
        place = self.path.resolve() / model
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def _may_stage_beside(self) -> bool:
        """Tried, because nothing else tells: a folder that is mounted from the same file system has the same device."""
        if not self.path.is_dir():
            return True
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}-probe-", dir=self.path.resolve().parent)
        except OSError as error:
            return error.errno == errno.ENOSPC
        os.close(descriptor)
        probe, moved = Path(name), self.path / Path(name).name
        try:
            probe.rename(moved)
        except OSError as error:
            return error.errno != errno.EXDEV
        finally:
            for path in (probe, moved):
                path.unlink(missing_ok=True)
        return True

    @property
    def _prefix(self) -> str:
        return f".{self.path.name}-staging-"


def _named(folder: Path, *patterns: str) -> list[Path]:
    """What lies in `folder` below folders whose names match all but the last of `patterns`, and begins with that."""
    *above, prefix = patterns
    places = [place for place in folder.glob("/".join(above)) if place.is_dir()] if above else [folder]
    return [path for place in places for path in place.iterdir() if path.name.startswith(prefix)]


def _wait_for(descriptor: int, timeout: float, path: Path) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RepositoryError(
                    f"another process has held {path} for {timeout:g} s; wait for its export, or end it"
                ) from None
            time.sleep(0.02)


def _sync_tree(folder: Path) -> None:
    for path in _files(folder):
        _sync(path)
    _sync(folder)


def _files(folder: Path) -> Iterable[Path]:
    return (p for p in folder.rglob("*") if p.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
