"""From what a request says about its style to what the network takes, in the version that answers it.

A style is named, or a blend of named ones, or comes as a vector. Names are looked up among the caller's own styles, then among
those that belong to everybody, then among those that the network was trained on. Knows nothing about pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reverie.errors import InputError
from serving.style.library import StyleLibrary
from serving.style.parameters import StylizeParameters
from serving.style.table import StyleTable

StyleInput = Mapping[str, np.ndarray]
"""A graph's inputs beside the photograph, as a batch of one."""


@dataclass(frozen=True)
class AskedStyle:
    """What a request says about its style.

    Attributes:
        parameters: of the request.
        vector: float32, what came with it instead of names; None for nothing.
        client: whose styles are looked at first; "" is all who have no name.
    """

    parameters: StylizeParameters
    vector: np.ndarray | None = None
    client: str = ""

    def __post_init__(self) -> None:
        named = self.parameters.style or self.parameters.styles
        if self.vector is not None and named:
            raise InputError(f"style_vector: came together with {named!r}; give a vector or names")
        if self.vector is None and self.parameters.style_network:
            raise InputError(
                "style_network: says what a style_vector was made for, and none came; send it, or leave both out"
            )


@dataclass(frozen=True)
class ChosenStyle:
    """A style, and the version that restyles with it.

    Attributes:
        folder: of the version.
        inputs: what its graph takes.
        name: of the style, names and shares of a blend, or the hash of a vector: for people, and for provenance.
    """

    folder: Path
    inputs: StyleInput
    name: str


@dataclass(frozen=True)
class StyleChooser:
    """See the module.

    Args:
        pinned: folder of the version that answers.
        sample: the version for the next call: `pinned`, or now and then a canary beside it.
        library: named styles that no version was trained on; None for none.
        tables: of versions that were read already, by folder.
    """

    pinned: Path
    sample: Callable[[], Path]
    library: StyleLibrary | None = None
    tables: dict[Path, StyleTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table_of(self.pinned)

    def choose(self, asked: AskedStyle) -> ChosenStyle:
        """The version that answers, and what it takes; the pinned one where its canary cannot answer this.

        Raises:
            InputError: a name is unknown, or a vector is not accepted.
        """
        folder = self.sample()
        if folder == self.pinned:
            return self._in_version(folder, asked)
        try:
            return self._in_version(folder, asked)
        except InputError:
            return self._in_version(self.pinned, asked)

    def names(self, client: str) -> list[str]:
        """All that a client may name: the network's, then those of the library that were made for it."""
        table = self.table_of(self.pinned)
        own = self.library.names(client, table.network) if self.library and table.takes_vectors else []
        return [*table.names, *(name for name in own if name not in table.names)]

    def table_of(self, folder: Path) -> StyleTable:
        """The styles that a version was trained on."""
        if folder not in self.tables:
            self.tables[folder] = StyleTable.read(folder)
        return self.tables[folder]

    def _in_version(self, folder: Path, asked: AskedStyle) -> ChosenStyle:
        table = self.table_of(folder)
        row, name = self._own(table, asked, asked.vector) if asked.vector is not None else self._named(table, asked)
        return ChosenStyle(folder, {table.input: row[None]}, name)

    def _own(self, table: StyleTable, asked: AskedStyle, vector: np.ndarray) -> tuple[np.ndarray, str]:
        row = table.check(vector, "style_vector")
        if (network := asked.parameters.style_network) and network != table.network:
            raise InputError(
                f"style_network: {network!r}; accepted: {table.network!r}, the network that is served; a vector fits the network "
                "that it was made for and no other: learn the style again from its painting"
            )
        return row, f"vector {hashlib.sha256(row.tobytes()).hexdigest()[:16]}"

    def _named(self, table: StyleTable, asked: AskedStyle) -> tuple[np.ndarray, str]:
        shares = asked.parameters.shares(table.names[0])
        rows = [np.float32(share) * self._row(name, table, asked) for name, share in shares.items()]
        blend = ", ".join(f"{name}={share:.3g}" for name, share in shares.items())
        return np.sum(rows, axis=0, dtype=np.float32), blend if len(shares) > 1 else next(iter(shares))

    def _row(self, name: str, table: StyleTable, asked: AskedStyle) -> np.ndarray:
        found = self.library.find(name, asked.client) if self.library else None
        if found is not None:
            found.check_network(table.network)
            return table.check(found.vector, f"style {name!r}")
        if name in table.names:
            return table.row(name)
        parameter = "styles" if asked.parameters.styles else "style"
        raise InputError(f"{parameter}: {name!r} is unknown; accepted: {', '.join(self.names(asked.client))}")
