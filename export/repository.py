"""The model repository's layout, and how a version gets into it whole or not at all.

A version is staged outside the repository on the same file system, synced, and renamed into
`<model>/<number>`; Triton never sees half of one. Knows nothing about what the files mean.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Repository:
    """A folder that Triton serves."""

    path: Path

    def versions(self, model: str) -> list[int]:
        """Published versions of `model`, oldest first."""
        folder = self.path / model
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

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
            _sync(target)
            return version

    def withdraw(self, model: str, version: int) -> None:
        """Remove a version; renamed away first, so that it disappears at once."""
        bin_ = self.staging()
        (self.path / model / str(version)).rename(bin_ / str(version))
        shutil.rmtree(bin_)

    def write_configuration(self, model: str, text: str) -> None:
        """Replace `config.pbtxt` of `model` atomically; an unchanged one is not touched."""
        path = self.path / model / "config.pbtxt"
        if path.exists() and path.read_text() == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.staging() / "config.pbtxt"
        staged.write_text(text)
        staged.rename(path)
        staged.parent.rmdir()

    def touch(self, model: str) -> None:
        """Make the files of `model`'s versions look changed, so that Triton reloads it when asked to.

        A newer `config.pbtxt` alone is not enough: Triton compares its contents.
        """
        for version in self.versions(model):
            for file in _files(self.path / model / str(version)):
                os.utime(file)

    def staging(self) -> Path:
        """A new empty folder beside the repository, on its file system."""
        parent = self.path.resolve().parent
        return Path(tempfile.mkdtemp(prefix=f".{self.path.name}-staging-", dir=parent))


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
