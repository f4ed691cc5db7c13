"""Many paintings to learn from: what the loss and the predictor want to know of each, measured once and kept on disk.

A painting also comes with its color channels exchanged: the strokes of one painting in colors that no painter mixed, so
that colors and strokes are learned apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from imaging import images
from synthesis import features
from synthesis.style.loss import STYLE_LAYERS, StyleTargets
from synthesis.style.predictor import statistics_of
from training import files

CHANNELS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
"""The orders of red, green and blue that a painting comes in; the first is its own."""


@dataclass(frozen=True, eq=False)
class Paintings:
    """Paintings by their names, measured as they are asked for.

    Attributes:
        paths: the files, by the names of the styles.
        size: longer side, in pixels, at which the loss looks at them.
        extractor: of the loss.
        cache: folder of the measures, named by the contents of the files.
    """

    paths: dict[str, Path]
    size: int
    extractor: str
    cache: Path

    def targets(self, name: str, order: int = 0) -> StyleTargets:
        """Return what the loss asks for: a painting with its channels in the order `CHANNELS[order]`."""
        data = self._kept(f"{self._key(name)}_{self.extractor}_{self.size}_{order}", lambda: self._targets(name, order))
        grams = [_unpacked(data[layer], data[f"{layer}_scale"]) for layer in STYLE_LAYERS]
        return StyleTargets(grams, data["roughness"])

    def statistics(self, name: str, order: int = 0) -> np.ndarray:
        """Return what a predictor looks at, float32 (1, numbers); the arguments are those of `targets`."""
        key = f"{self._key(name)}_statistics_{order}"
        return self._kept(key, lambda: {"statistics": statistics_of([self._painting(name, order)])})["statistics"]

    def _kept(self, key: str, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What was measured before, or now. That is read again too: rounded as it always will be."""
        path = self.cache / f"{key}.npz"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            files.save_arrays(path, measure())
        with np.load(path) as data:
            return dict(data)

    def _targets(self, name: str, order: int) -> dict[str, np.ndarray]:
        targets = StyleTargets.of(self._extract, [images.fit_within(self._painting(name, order), self.size)])
        arrays = {"roughness": targets.roughness}
        for layer, gram in zip(STYLE_LAYERS, targets.grams, strict=True):
            arrays[layer], arrays[f"{layer}_scale"] = _packed(gram)
        return arrays

    def _painting(self, name: str, order: int) -> np.ndarray:
        return images.read(self.paths[name])[..., CHANNELS[order]]

    @cached_property
    def _extract(self) -> Callable:
        return features.load(self.extractor, STYLE_LAYERS)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: files.digest([path])[:12] for name, path in self.paths.items()}

    def _key(self, name: str) -> str:
        return f"{name}_{self._digests[name]}"


def _packed(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper triangle of each symmetric matrix over its largest entry, in half precision; and that entry."""
    scale = np.abs(gram).max()
    rows, columns = np.triu_indices(gram.shape[-1])
    return (gram[:, rows, columns] / scale).astype(np.float16), np.asarray(scale, np.float32)


def _unpacked(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    side = int((np.sqrt(8 * packed.shape[1] + 1) - 1) / 2)
    rows, columns = np.triu_indices(side)
    gram = np.empty((len(packed), side, side), np.float32)
    gram[:, rows, columns] = gram[:, columns, rows] = packed.astype(np.float32) * scale
    return gram
