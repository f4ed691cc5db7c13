"""Pictures to look at: photographs in rows, untouched and as every network paints them in every style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from imaging import images
from reverie import outputs
from training.style.evaluation.evaluate import Restyler

_PHOTOS, _SIDE = 8, 256


def contact_sheet(
    networks: Sequence[Restyler], styles: Sequence[str], photos: Sequence[Path], strength: float, path: Path
) -> None:
    """Write a JPEG: a row for each of the first photographs, a column for each network and style."""
    rows = [np.concatenate(list(_row(networks, styles, photo, strength)), axis=1) for photo in photos[:_PHOTOS]]
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs.write(path, images.encode(np.concatenate(rows), "jpeg", quality=90))


def _row(networks: Sequence[Restyler], styles: Sequence[str], path: Path, strength: float) -> Iterator[np.ndarray]:
    photo = _square(images.read(path))
    yield photo
    for network in networks:
        for style in styles:
            yield network.paint(photo, style, strength)


def _square(image: np.ndarray) -> np.ndarray:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return images.resize(image[top : top + side, left : left + side], _SIDE, _SIDE)
