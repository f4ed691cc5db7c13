"""The named styles of one version of the model `style`, as its graph takes them.

There are two kinds of graph. One takes a style as a vector (`style`): all scales and shifts of its normalizations, and the
photograph's share; `styles.npz` holds a row for each name in `styles.json`. Older ones hold these rows themselves and take
weights over them (`style_weights`), so that to them a style is a row of the identity matrix. Knows nothing about requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from reverie.errors import InputError, ToolkitError
from serving.style.files import MODEL

VECTOR = "style"
"""Input of a graph that takes vectors: float32 (batch, numbers)."""
WEIGHTS = "style_weights"
"""Input of a graph that takes weights over its own styles: float32 (batch, styles)."""
NAMES = "styles.json"
VECTORS = "styles.npz"
_LEEWAY = 1.0
"""How far beyond the range of the named styles a number of a vector may always be. Scales begin at 1 in training, shifts at 0."""


class StyleTableError(ToolkitError):
    """A version's files do not say how its graph takes styles; the message says which is at fault."""


@dataclass(frozen=True)
class StyleTable:
    """See the module.

    Attributes:
        names: of the styles; the first is what callers get who name none.
        rows: float32 (styles, numbers), what the graph takes for each name.
        network: hash of what all styles of the network share; a vector fits no other network. "" where it takes weights.
        lowest, highest: float32 (numbers,), what is accepted of a vector that a caller brings.
        paintings: SHA-256 of each style's painting, "" where it is not known.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    network: str = ""
    lowest: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    highest: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    paintings: tuple[str, ...] = ()

    @classmethod
    def of_weights(cls, names: Sequence[str]) -> StyleTable:
        """The styles of a graph that takes weights."""
        return cls(tuple(names), np.eye(len(names), dtype=np.float32))

    @classmethod
    def of_vectors(
        cls, names: Sequence[str], vectors: np.ndarray, network: str, paintings: Sequence[str] = ()
    ) -> StyleTable:
        """The styles of a graph that takes vectors.

        What is accepted of other vectors is, number by number, the range of these, and on each side once more as much and
        `_LEEWAY`.
        """
        least, most = vectors.min(axis=0), vectors.max(axis=0)
        beyond = most - least + np.float32(_LEEWAY)
        return cls(
            tuple(names), vectors, network, least - beyond, most + beyond, tuple(paintings) or ("",) * len(names)
        )

    @classmethod
    def read(cls, folder: Path) -> StyleTable:
        """The styles of a version; which kind it is, its graph says.

        Raises:
            StyleTableError: it takes vectors and comes without any, or with as many as it has no names for.
        """
        names = json.loads((folder / NAMES).read_text())
        if WEIGHTS in _inputs(folder / MODEL):
            return cls.of_weights(names)
        try:
            with np.load(folder / VECTORS, allow_pickle=False) as arrays:
                return cls._of_arrays(names, arrays)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StyleTableError(f"{folder / VECTORS} cannot be read: {error}; export the version again") from None

    @classmethod
    def _of_arrays(cls, names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> StyleTable:
        vectors = arrays["vectors"]
        if len(vectors) != len(names):
            raise ValueError(f"{len(vectors)} vectors for {len(names)} names")
        paintings = tuple(map(str, arrays["paintings"]))
        return cls(tuple(names), vectors, str(arrays["network"]), arrays["lowest"], arrays["highest"], paintings)

    def write(self, folder: Path) -> None:
        """Write `styles.json`, and for a graph that takes vectors `styles.npz`."""
        (folder / NAMES).write_text(json.dumps(self.names) + "\n")
        if self.takes_vectors:
            np.savez_compressed(
                folder / VECTORS,
                vectors=self.rows,
                network=np.array(self.network),
                lowest=self.lowest,
                highest=self.highest,
                paintings=np.array(self.paintings),
            )

    @property
    def takes_vectors(self) -> bool:
        """Whether a caller may bring a style that has no name here."""
        return bool(self.network)

    @property
    def input(self) -> str:
        """Name of the graph's input."""
        return VECTOR if self.takes_vectors else WEIGHTS

    def inputs(self) -> list[dict[str, np.ndarray]]:
        """What each named style is to the graph, as a batch of one, in the order of the names."""
        return [{self.input: row[None]} for row in self.rows]

    def row(self, name: str) -> np.ndarray:
        """A named style, float32 (numbers,).

        Raises:
            ValueError: there is none of that name.
        """
        return self.rows[self.names.index(name)]

    def check(self, vector: np.ndarray, what: str) -> np.ndarray:
        """A vector that is no named style's, as float32 (numbers,).

        Args:
            vector: float32 (numbers,) or (1, numbers).
            what: it is, for the message.

        Raises:
            InputError: the network takes none, or none of this length; or a number is far from those of all named styles.
        """
        if not self.takes_vectors:
            raise InputError(
                f"{what}: the style network that is served takes its own styles only; accepted: {', '.join(self.names)}"
            )
        numbers = self.rows.shape[1]
        if vector.shape not in ((numbers,), (1, numbers)):
            raise InputError(f"{what}: shape {list(vector.shape)}; accepted: [{numbers}]")
        vector = vector.reshape(-1).astype(np.float32)
        if not np.isfinite(vector).all():
            raise InputError(f"{what}: holds NaN or infinity; accepted: finite numbers")
        self._check_range(vector, what)
        return vector

    def _check_range(self, vector: np.ndarray, what: str) -> None:
        outside = np.flatnonzero((vector < self.lowest) | (vector > self.highest))
        if len(outside):
            first = outside[0]
            raise InputError(
                f"{what}: {len(outside)} of {len(vector)} numbers are far from those of all trained styles; number {first} is "
                f"{vector[first]:.4g}, accepted there: {self.lowest[first]:.4g} to {self.highest[first]:.4g}"
            )


def _inputs(graph: Path) -> set[str]:
    return {node.name for node in onnx.load(graph, load_external_data=False).graph.input}
