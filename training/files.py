"""Files that a training reads: which there are below a folder, and what tells one content from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path


def files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    """All files below `folder` with one of `endings` (lower case, with the dot; files may have capitals), sorted.

    Linked folders are followed, but no folder is entered within itself.
    """
    return sorted(path for path in _walk(folder, ()) if path.suffix.lower() in endings)


def _walk(folder: Path, inside: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in inside:
        return
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_dir():
            yield from _walk(path, (*inside, real))
        elif entry.is_file():
            yield path


def digest(paths: Iterable[Path], folder: Path | None = None) -> str:
    """SHA-256 over the files' contents in this order, and over their names below `folder` where one is given.

    Sizes and times would be faster, and miss a file that was rewritten in place.
    """
    total = hashlib.sha256()
    for path in paths:
        name = path.relative_to(folder).as_posix() if folder else ""
        total.update(f"{name}\0{_sha256(path)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()
