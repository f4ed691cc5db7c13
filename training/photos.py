"""Content photographs: random crops of a folder's images, batch by batch.

A batch depends on the seed and the step alone (see `training.loop`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from synthesis import images
from training.downloads import fetch

COCO_URL = "http://images.cocodataset.org/zips/val2017.zip"
COCO_MD5 = "442b8da7639aecaf257c1dceb8ba8c80"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class PhotosError(Exception):
    """No usable photographs at a path; the message says what to do."""


def download() -> Path:
    """The 5,000 photographs of COCO's validation set (778 MB); see `training.downloads.fetch`."""
    return fetch(COCO_URL, COCO_MD5, "give a folder of photographs with --content (CONTENT=)", extract=True)


@dataclass(frozen=True)
class Photos:
    """Image files in a fixed order."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path, minimum: int = 1) -> Photos:
        """All images below `folder`.

        Raises:
            PhotosError: the folder is missing or holds fewer than `minimum` images.
        """
        paths = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES))
        if len(paths) < minimum:
            raise PhotosError(
                f"{folder} holds {len(paths)} images, {minimum} are needed; give a folder of photographs as CONTENT"
            )
        return cls(paths)

    def split(self, held_out: int) -> tuple[Photos, Photos]:
        """The first photos for training and `held_out` evenly spaced ones for evaluation."""
        kept_out = set(self.paths[:: max(1, len(self.paths) // held_out)][:held_out]) if held_out else set()
        return Photos(tuple(p for p in self.paths if p not in kept_out)), Photos(tuple(sorted(kept_out)))

    def crops(self, step: int, count: int, size: int, seed: int) -> np.ndarray:
        """Random square crops, mirrored half of the time.

        Returns:
            float32 (count, size, size, 3), RGB in [0, 255].
        """
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(self.paths), size=count)
        return np.stack([_random_crop(_pixels(self.paths[i]), size, rng) for i in chosen]).astype(np.float32)

    def one_crop_each(self, size: int) -> Iterator[np.ndarray]:
        """The same crop of every photo at each call, as batches of one: float32 (1, size, size, 3)."""
        for i, path in enumerate(self.paths):
            yield Photos((path,)).crops(0, 1, size, seed=i)


@lru_cache(maxsize=2048)
def _pixels(path: Path) -> np.ndarray:
    return images.fit_within(images.read(path), 512)


def _random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop that covers between the whole shorter side and `size` pixels of it, at scale `size`."""
    height, width = image.shape[:2]
    side = int(rng.integers(min(size, min(height, width)), min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = images.resize(image[top : top + side, left : left + side], size, size)
    return crop[:, ::-1] if rng.random() < 0.5 else crop
