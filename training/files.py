"""Files that a training reads and writes: those below a folder, what tells one content from another, whole ones only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np


def files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    """Return all files below `folder` with one of `endings` (lower case, with the dot; files may have capitals), sorted.

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
    """Return the SHA-256 over the files' contents in this order, and over their names below `folder` where one is given.

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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write whose contents take the place of `path`'s when the block ends; if anything fails, the old ones stay.

    Unlike `reverie.outputs.replacing` it always writes to one name: a run that is killed again and again leaves one file.

    Raises:
        OSError: it cannot be written; nothing else is left of it.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As `numpy.savez`, but the old file stays whole if anything fails, and nothing else is left.

    On a full disk NumPy's own continues to write into the closed file when it is collected, and says so.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
