"""Large pictures in bounded memory: tiles that overlap, all with the normalization statistics of the whole picture.

The statistics are those of the picture shrunk to a thumbnail, with its margin. Runs its own ONNX Runtime sessions on the
files of the model `style`, because the statistics are no inputs of that model; they live as long as one picture, so what
they allocated is returned. Knows nothing about files of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from imaging import images
from reverie.onnx_sessions import open_session
from serving.style.margin import MARGIN, Margins
from serving.style.statistics import SplitGraphs, split_statistics

TILE = 1024
"""Height and width of a tile in pixels; the thumbnail has as many pixels at most, whatever its shape."""
OVERLAP = 208
"""Pixels that neighboring tiles share; the inner part is cross-faded."""
BORDER = 80
"""Pixels from a border that are not used: the shipped network feels one for 79."""
GRID = 16
"""Tiles begin at multiples of it: the network's halvings and doublings then fall as they do in the whole picture."""


def restyle_in_tiles(
    model: Path,
    photo: np.ndarray,
    style: Mapping[str, np.ndarray],
    tile: int = TILE,
    before_tile: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Restyle a picture of any size.

    Args:
        model: the file of the model `style`.
        photo: uint8 (height, width, 3).
        style: the graph's other inputs, the batch first.
        before_tile: called before each tile; may raise, which ends the work.

    Returns:
        uint8 (height, width, 3).
    """
    graphs = _graphs(model)
    given = dict(style)
    thumbnail = Margins().put_on(images.fit_within(photo, thumbnail_side(*photo.shape[:2])))
    statistics = _session(graphs.measure).run(list(graphs.statistics), {"image": thumbnail[None]} | given)
    given |= dict(zip(graphs.statistics, statistics, strict=True))
    session = _session(graphs.restyle)

    def restyle(part: np.ndarray) -> np.ndarray:
        before_tile()
        return session.run(["stylized"], {"image": np.ascontiguousarray(part)[None]} | given)[0][0]

    return join_tiles(photo, restyle, tile)


def thumbnail_side(height: int, width: int) -> int:
    """Longer side of a picture's thumbnail, which then has `TILE` x `TILE` pixels at most.

    A fixed longer side would not do: 8192x16 pixels would become 1024x2, which look like nothing in the picture.
    """
    return int(TILE * math.sqrt(max(height, width) / min(height, width)))


def join_tiles(photo: np.ndarray, restyle: Callable[[np.ndarray], np.ndarray], tile: int = TILE) -> np.ndarray:
    """Apply `restyle` tile by tile and cross-fade where tiles overlap; both take uint8 (height, width, 3).

    Where a tile ends with the picture, `restyle` is given the picture's margin too.
    """
    result = np.empty_like(photo)
    height, width, _ = photo.shape
    for top, bottom in spans(height, tile):
        band = np.empty_like(photo[top:bottom])
        for left, right in spans(width, tile):
            margins = Margins(*_beyond(top, bottom, height), *_beyond(left, right, width))
            piece = margins.take_off(restyle(margins.put_on(photo[top:bottom, left:right])))
            _join(band.swapaxes(0, 1), piece.swapaxes(0, 1), left)
        _join(result, band, top)
    return result


def _beyond(begin: int, end: int, length: int) -> tuple[int, int]:
    """The margins of a tile from `begin` to `end` before and behind a side of `length` pixels."""
    return MARGIN * (begin == 0), MARGIN * (end == length)


def spans(length: int, tile: int = TILE) -> Iterator[tuple[int, int]]:
    """Begin and end of tiles of nearly equal size that cover `length` pixels with `OVERLAP`."""
    count = max(1, -(-(length - OVERLAP) // (tile - OVERLAP)))
    step = -(-(length - OVERLAP) // (count * GRID)) * GRID
    for i in range(count):
        yield i * step, length if i == count - 1 else i * step + step + OVERLAP


def _join(canvas: np.ndarray, piece: np.ndarray, start: int) -> None:
    """Put `piece` at row `start` of `canvas`, cross-fading its first `OVERLAP` rows with what is there."""
    fade = min(OVERLAP, len(piece)) if start else 0
    if fade:
        here = canvas[start : start + fade]
        share = _ramp()[:fade, None, None]
        here[:] = images.to_uint8(here + share * (piece[:fade].astype(np.float32) - here))
    canvas[start + fade : start + len(piece)] = piece[fade:]


@lru_cache(maxsize=1)
def _ramp() -> np.ndarray:
    """Share of the second tile over the overlap: 0 where it feels its border, 1 where the first tile does."""
    return np.clip((np.arange(OVERLAP, dtype=np.float32) + 0.5 - BORDER) / (OVERLAP - 2 * BORDER), 0, 1)


@lru_cache(maxsize=2)
def _graphs(model: Path) -> SplitGraphs:
    return split_statistics(onnx.load(model))


def _session(graph: bytes) -> ort.InferenceSession:
    """Tiles have up to four shapes; and ONNX Runtime warns about every weight that only the other graph uses."""
    accepted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [p for p in accepted if p in ort.get_available_providers()]
    return open_session(graph, providers, has_many_shapes=True, shares_machine=True, is_quiet=True)
