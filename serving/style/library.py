"""Named styles that no version was trained on: one file each, in a folder for each owner, beside the versions of `style`.

Files appear and go whole (`registry.repository`), and every change leaves a line in a history. A reader looks a file up by its
name at each call, so that a running server knows a style as soon as it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from registry.history import History
from registry.repository import Repository
from reverie.errors import ToolkitError
from serving.style.style_file import StyleFile, StyleFileError, checked_name, is_name
from serving.style.table import StyleTable

MODEL = "style"
FOLDER = ".library"
"""In the model's folder. Hidden: what is private should not travel to a bucket with the versions."""
_EVERYBODY = "everybody"
_OF = "of-"
_ENDING = ".json"
_LONGEST_OWNER = 200
_STAMP = tuple[int, int, int]


class StyleExistsError(ToolkitError):
    """A name is taken: ALREADY_EXISTS."""


class UnknownStyleError(ToolkitError):
    """There is no style of a name; the message lists those that there are."""


@dataclass(frozen=True)
class Shelf:
    """The styles of one owner.

    Attributes:
        owner: the client's name, as the server knows it; "" for everybody's.
    """

    folder: Path
    owner: str

    @classmethod
    def of(cls, library: Path, owner: str) -> Shelf:
        """The shelf of an owner; it need not be there yet."""
        if not owner:
            return cls(library / _EVERYBODY, "")
        quoted = quote(owner, safe="")
        short = quoted if len(quoted) <= _LONGEST_OWNER else hashlib.sha256(owner.encode()).hexdigest()
        return cls(library / f"{_OF}{short}", owner)

    @classmethod
    def at(cls, folder: Path) -> Shelf:
        """The shelf in a folder that is there."""
        return cls(folder, "" if folder.name == _EVERYBODY else unquote(folder.name.removeprefix(_OF)))

    def path(self, name: str) -> Path:
        """Where a style of a name is, or would be."""
        return self.folder / f"{checked_name(name)}{_ENDING}"

    def names(self) -> list[str]:
        """Of all styles, in their alphabetical order."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        names = (p.name.removesuffix(_ENDING) for p in found if p.name.endswith(_ENDING))
        return sorted(name for name in names if is_name(name))


@dataclass(frozen=True)
class StyleLibrary:
    """The library of a model repository; safe to read from many threads and processes.

    Args:
        repository: its folder.
    """

    repository: Path
    _read: dict[Path, tuple[_STAMP, StyleFile]] = field(default_factory=dict)

    def find(self, name: str, client: str = "") -> StyleFile | None:
        """The style that a client means by a name: its own, else everybody's; None for neither.

        Raises:
            StyleFileError: the file is damaged.
        """
        for shelf in self._shelves(client) if is_name(name) else ():
            with contextlib.suppress(FileNotFoundError):
                return self._file(shelf.path(name))
        return None

    def names(self, client: str = "", network: str = "") -> list[str]:
        """What a client may name here.

        Args:
            network: only what was made for it; "" for all. Damaged files are left out then.
        """
        found = dict.fromkeys(name for shelf in self._shelves(client) for name in shelf.names())
        return [name for name in found if not network or self._is_for(network, name, client)]

    def shelves(self) -> list[Shelf]:
        """Of all owners that have one."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return [Shelf.at(folder) for folder in sorted(found) if folder.is_dir()]

    def get(self, name: str, owner: str = "") -> StyleFile:
        """As `find`.

        Raises:
            UnknownStyleError: there is none of that name.
        """
        found = self.find(name, owner)
        if found is None:
            there = ", ".join(self.names(owner)) or "none"
            raise UnknownStyleError(f"there is no style {name!r} in {self._folder}; there: {there}")
        return found

    def add(self, style: StyleFile, owner: str = "") -> None:
        """Put a style on its owner's shelf.

        Raises:
            StyleExistsError: the owner, everybody or a version has a style of that name.
            InputError: no version here is of the style's network, or its numbers are far from those of all trained styles.
        """
        self._check_fits(style)
        with self._changed(owner, "added", style.name):
            self._check_free(style.name, owner)
            self._write(style, owner)

    def rename(self, name: str, new: str, owner: str = "") -> None:
        """Give a style another name; for a moment it has both.

        Raises:
            StyleExistsError, UnknownStyleError: the new name is taken, or the old one is nobody's.
            InputError: no style can be called so.
        """
        with self._changed(owner, "renamed", new, was=name):
            path = self._own(name, owner)
            self._check_free(checked_name(new), owner)
            self._write(self._file(path).model_copy(update={"name": new}), owner)
            path.unlink()

    def remove(self, name: str, owner: str = "") -> None:
        """Remove a style.

        Raises:
            UnknownStyleError: its owner has none of that name.
        """
        with self._changed(owner, "removed", name):
            self._own(name, owner).unlink()

    def tables(self) -> Iterator[StyleTable]:
        """The styles of each version in the repository, of the newest first."""
        files = Repository(self.repository)
        for version in reversed(files.versions(MODEL)):
            yield StyleTable.read(files.folder(MODEL, version))

    @property
    def _folder(self) -> Path:
        return self.repository / MODEL / FOLDER

    def _shelves(self, client: str) -> list[Shelf]:
        return [Shelf.of(self._folder, owner) for owner in dict.fromkeys((client, ""))]

    def _is_for(self, network: str, name: str, client: str) -> bool:
        with contextlib.suppress(StyleFileError):
            style = self.find(name, client)
            return style is not None and style.network == network
        return False

    def _file(self, path: Path) -> StyleFile:
        """As it is now; read again only if the file is another."""
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (
                stamp,
                StyleFile.of_bytes(path.read_bytes(), f"the file of style {path.name.removesuffix(_ENDING)!r}"),
            )
        return known[1]

    def _own(self, name: str, owner: str) -> Path:
        shelf = Shelf.of(self._folder, owner)
        if name not in shelf.names():
            whose = f"of {owner!r}" if owner else "that is everybody's"
            raise UnknownStyleError(
                f"there is no style {name!r} {whose} in {self._folder}; there: {', '.join(shelf.names()) or 'none'}"
            )
        return shelf.path(name)

    def _write(self, style: StyleFile, owner: str) -> None:
        path = Shelf.of(self._folder, owner).path(style.name)
        Repository(self.repository).write(MODEL, path.relative_to(self.repository / MODEL).as_posix(), style.to_bytes())

    def _check_free(self, name: str, owner: str) -> None:
        taken = {trained for table in self.tables() for trained in table.names}
        if name in taken or name in self.names(owner):
            raise StyleExistsError(
                f"there is a style {name!r} already; accepted: another name, or remove or rename that one first"
            )

    def _check_fits(self, style: StyleFile) -> None:
        tables = list(self.tables())
        fitting = next((table for table in tables if table.network == style.network), None)
        if fitting is None:
            style.check_network(tables[0].network if tables else "")
        else:
            fitting.check(style.vector, f"style {style.name!r}")

    @contextlib.contextmanager
    def _changed(self, owner: str, event: str, name: str, **more: str) -> Iterator[None]:
        """Nobody else changes the repository meanwhile; what succeeds is told to the history."""
        files = Repository(self.repository)
        if not (self.repository / MODEL).is_dir():
            raise UnknownStyleError(f"{self.repository} holds no model {MODEL!r}; name another with --repository")
        with files.lock():
            files.sweep()
            yield
            History(self._folder).record(event=event, style=name, owner=owner, **more)
