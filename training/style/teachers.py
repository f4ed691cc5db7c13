"""Teachers that a style network can copy before it learns by itself (distillation).

The book's description of fast style transfer: input and output pairs made by the slow method, then a
regression. Pairs come from Gatys' optimization, once, kept on disk; or from a larger trained network, as
they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from imaging import images
from synthesis import gatys
from synthesis.gatys import GatysParameters
from training import files
from training.photos import Photos
from training.style.batches import DistillationBatch, ViewBatch


class Teacher(Protocol):
    """Pictures and what a network should make of them."""

    def batch(self, step: int) -> DistillationBatch:
        """Return the batch of a step; it depends on the step alone."""


@dataclass(frozen=True)
class Pairs:
    """Gatys' transfers of crops, on disk: `<number>_photo.png` and `<number>_<style>.png`, square.

    Attributes:
        folder: of the files.
        styles: names, in the order of the weight vector.
        count: number of crops; pair i has the style `i % len(styles)`.
        batch_size: pairs in a batch.
    """

    folder: Path
    styles: tuple[str, ...]
    count: int
    batch_size: int
    seed: int = 1

    def make(
        self,
        photos: Photos,
        paintings: Mapping[str, Path],
        size: int,
        parameters: GatysParameters,
        on_pair: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Make the pairs that are not there yet; what a stopped call has finished is kept.

        Args:
            size: side of the crops, in pixels.
            on_pair: called with the number of pairs that are there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for i in range(self.count):
            photo, painted = self._files(i)
            if not painted.exists():
                crop = photos.crops(i, 1, size, self.seed)[0].astype(np.uint8)
                painting = images.read(paintings[self._style(i)])
                _write(photo, crop)
                _write(painted, gatys.transfer(crop, painting, parameters))
            on_pair(i + 1)

    def batch(self, step: int) -> DistillationBatch:
        """See `Teacher`."""
        chosen = np.random.default_rng((self.seed, step)).integers(self.count, size=self.batch_size)
        pairs = [[images.read(file) for file in self._files(i)] for i in chosen]
        photos, painted = (np.stack(side).astype(np.float32) for side in zip(*pairs, strict=True))
        return DistillationBatch(photos, np.eye(len(self.styles), dtype=np.float32)[chosen % len(self.styles)], painted)

    def _style(self, i: int) -> str:
        return self.styles[i % len(self.styles)]

    def _files(self, i: int) -> tuple[Path, Path]:
        return self.folder / f"{i:05d}_photo.png", self.folder / f"{i:05d}_{self._style(i)}.png"


@dataclass(frozen=True)
class NetworkTeacher:
    """A trained network with the same styles.

    Attributes:
        network: takes `(image, style_weights)`.
        student_batch: step to a batch of photographs and style weights.
    """

    network: Callable
    student_batch: Callable[[int], ViewBatch]

    def batch(self, step: int) -> DistillationBatch:
        """See `Teacher`."""
        batch = self.student_batch(step)
        painted = np.asarray(self.network((batch.photos, batch.style_weights)))
        return DistillationBatch(batch.photos, batch.style_weights, np.clip(painted, 0, 255))


def _write(path: Path, image: np.ndarray) -> None:
    """Atomically, so that a stopped run leaves no half picture."""
    with files.replacing(path) as file:
        file.write(images.encode(image))
