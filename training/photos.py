"""Content photographs: random crops of a folder's images, batch by batch.

A batch depends on the seed and the step alone (see `training.loop`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from imaging import images
from reverie.errors import ToolkitError
from training import files
from training.downloads import fetch

COCO_URL = "http://images.cocodataset.org/zips/val2017.zip"
COCO_MD5 = "442b8da7639aecaf257c1dceb8ba8c80"
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
_LONGEST = 512
"""Longer side of the photographs that crops are taken from, in pixels."""
_NAMED = 5
"""Files that a message names."""


class PhotosError(ToolkitError):
    """No usable photographs at a path; the message says what to do."""


def download() -> Path:
    """Fetch the 5,000 photographs of COCO's validation set (778 MB); see `training.downloads.fetch`."""
    return fetch(COCO_URL, COCO_MD5, "give a folder of photographs with --content (CONTENT=)", extract=True)


@dataclass(frozen=True)
class Photos:
    """Image files in a fixed order."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path, minimum: int = 1, strict: bool = False) -> Photos:
        """Find all images below `folder` that can be read; the others are named once and left out.

        Args:
            minimum: of images that can be read.
            strict: one that cannot be read is an error.

        Raises:
            PhotosError: the folder is missing, or holds fewer than `minimum` images.
        """
        if not folder.is_dir():
            raise PhotosError(f"there is no folder {folder}; give a folder of photographs as CONTENT")
        paths = files.files_below(folder, _ENDINGS)
        faults = _faults(paths)
        if faults and strict:
            raise PhotosError(f"{_named(faults)}; remove them, or leave --strict out to continue without them")
        if faults:
            Console(stderr=True).print(f"left out {_named(faults)}", markup=False, highlight=False, soft_wrap=True)
        usable = tuple(path for path in paths if path not in faults)
        if len(usable) < minimum:
            raise PhotosError(
                f"{folder} holds {len(usable)} images that can be read, {minimum} are needed; give a folder of "
                "photographs as CONTENT"
            )
        return cls(usable)

    @property
    def digest(self) -> str:
        """The SHA-256 of the files' contents, in their order."""
        return files.digest(self.paths)

    def split(self, held_out: int) -> tuple[Photos, Photos]:
        """Return the photos for training, and `held_out` evenly spaced ones for evaluation."""
        kept_out = set(self.paths[:: max(1, len(self.paths) // held_out)][:held_out]) if held_out else set()
        return Photos(tuple(p for p in self.paths if p not in kept_out)), Photos(tuple(sorted(kept_out)))

    def crops(self, step: int, count: int, size: int, seed: int) -> np.ndarray:
        """Return random square crops, mirrored half of the time.

        Returns:
            float32 (count, size, size, 3), RGB in [0, 255].
        """
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(self.paths), size=count)
        return np.stack([_random_crop(_pixels(self.paths[i]), size, rng) for i in chosen]).astype(np.float32)

    def one_crop_each(self, size: int) -> Iterator[np.ndarray]:
        """Yield one crop of every photo, the same in each call, as batches of one: float32 (1, size, size, 3)."""
        for i, path in enumerate(self.paths):
            yield Photos((path,)).crops(0, 1, size, seed=i)


def _faults(paths: Sequence[Path]) -> dict[Path, str]:
    """What is wrong with each file that is no picture to learn from."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = track(
            pool.map(_fault, paths), f"checking {len(paths)} photographs", len(paths), console=Console(stderr=True)
        )
        return {path: fault for path, fault in zip(paths, checks, strict=True) if fault}


def _fault(path: Path) -> str:
    try:
        images.decode_picture(path.read_bytes(), longest=_LONGEST)
    except (OSError, images.ImageError) as error:
        return str(error)
    return ""


def _named(faults: dict[Path, str]) -> str:
    shown = "; ".join(f"{path}: {fault}" for path, fault in list(faults.items())[:_NAMED])
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return f"{len(faults)} files that cannot be learned from: {shown}{more}"


@lru_cache(maxsize=2048)
def _pixels(path: Path) -> np.ndarray:
    return images.fit_within(images.read(path), _LONGEST)


def _random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop that covers between the whole shorter side and `size` pixels of it, at scale `size`."""
    height, width = image.shape[:2]
    side = int(rng.integers(min(size, min(height, width)), min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = images.resize(image[top : top + side, left : left + side], size, size)
    return crop[:, ::-1] if rng.random() < 0.5 else crop
