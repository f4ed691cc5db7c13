"""Files that commands write: looked at before the work begins, written beside their targets, renamed when whole.

Whoever reads meanwhile finds the old file or the new one, never a part, and a run that fails or is interrupted leaves
the old one. Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reverie.errors import InputError

_PREFIX = ".reverie-"
"""Of unfinished files and folders."""


class OutputError(InputError):
    """An output that cannot be written, or must not be; the message says why and what to do."""


def check(target: Path, inputs: Iterable[Path] = ()) -> None:
    """Find out, without writing, whether the file `target` can be written.

    Args:
        inputs: files and folders that are read, and must not be overwritten under whatever name.

    Raises:
        OutputError: it cannot, or it is one of `inputs`.
    """
    _refuse_inputs(target, inputs)
    with _told(target):
        if target.is_dir():
            raise OutputError(f"{target} is a folder; give the name of a file")
        real = _behind_links(target)
        if not real.parent.is_dir():
            raise OutputError(f"{target}: there is no folder {real.parent}; make it first, or give another")
        if real.exists() and not os.access(real, os.W_OK):
            raise OutputError(f"{target} is write-protected; give another name, or allow writing")
        if _is_renamed_over(real):
            _new_file(real).unlink()


def check_apart(targets: Sequence[Path]) -> None:
    """Raise OutputError if two of the files to write are one."""
    for i, target in enumerate(targets):
        for other in targets[:i]:
            if _is_same(target, other):
                raise OutputError(f"{other} and {target} are the same file; give two names")


def check_folder(target: Path, names: Iterable[str] = (), inputs: Iterable[Path] = ()) -> None:
    """Find out, leaving nothing behind, whether files of these names can be written into the folder `target`.

    It and the folders above it need not exist. `inputs` and Raises: see `check`.
    """
    _refuse_inputs(target, inputs)
    with _told(target):
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file; give a folder")
        for name in names:
            if (target / name).is_dir():
                raise OutputError(
                    f"{target / name} is a folder, and a file of that name is to be written; move it away"
                )
        trial = _folder_above(target) / _unfinished_name()
        trial.mkdir()
        trial.rmdir()


def write(target: Path, data: bytes | str) -> None:
    """Write the whole file at once; text as UTF-8. Raises: see `check`."""
    with replacing(target) as unfinished:
        unfinished.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to, ending in .tmp; it becomes `target` when the block ends, and vanishes if it fails.

    A link stays one: the file that it names is replaced. Devices and pipes are written as they are. Raises: see `check`.
    """
    check(target)
    real = _behind_links(target)
    if not _is_renamed_over(real):
        yield target
        return
    unfinished = _new_file(real)
    try:
        yield unfinished
        with _told(target):
            _finish(unfinished, real)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder; its files move into `target` when the block ends, and vanish if it fails.

    Other files of `target` stay. Raises: see `check_folder`.
    """
    with contextlib.ExitStack() as undo:
        with _told(target):
            for folder in _missing_folders(target):
                folder.mkdir()
                undo.callback(folder.rmdir)
            unfinished = target / _unfinished_name()
            unfinished.mkdir()
            undo.callback(shutil.rmtree, unfinished)
        yield unfinished
        with _told(target):
            for file in sorted(unfinished.iterdir()):
                file.replace(target / file.name)
            unfinished.rmdir()
        undo.pop_all()


def _finish(unfinished: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, unfinished)
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())  # Else a machine that loses power may keep the new name without its contents.
    unfinished.replace(target)


def _new_file(target: Path) -> Path:
    """An empty file beside `target`; of another ending, so that nobody who looks for such files takes it for one."""
    path = target.with_name(f"{_unfinished_name()}.tmp")
    path.touch(exist_ok=False)
    return path


def _unfinished_name() -> str:
    return f"{_PREFIX}{secrets.token_hex(8)}"


def _is_renamed_over(target: Path) -> bool:
    """Not devices and pipes, nor a file that is mounted on its own, as containers are given single files."""
    return not target.exists() or (target.is_file() and not os.path.ismount(target))


def _refuse_inputs(target: Path, inputs: Iterable[Path]) -> None:
    for path in inputs:
        if _is_same(target, path):
            raise OutputError(f"{target} is {path}, which is read; give the result another name")


def _is_same(one: Path, other: Path) -> bool:
    """By device and inode, whatever links and names lead there; and by name, as a folder on the way may be missing."""
    with contextlib.suppress(OSError):
        if one.samefile(other):
            return True
    return _behind_links(one) == _behind_links(other)


def _behind_links(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _missing_folders(folder: Path) -> list[Path]:
    """`folder` and those above it that are not there yet, the outermost first."""
    existing = _folder_above(folder)
    return [path for path in reversed([folder, *folder.parents]) if path != existing and existing in path.parents]


def _folder_above(folder: Path) -> Path:
    """The innermost of `folder` and those above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """What the file system refuses, in a person's words."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror or error})") from None
