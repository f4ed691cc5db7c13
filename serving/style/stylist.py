"""A picture file in, the picture in a style out, as a file: decode, network, colors, encode.

Safe to call from many threads, which is how the steps of different requests overlap. Knows nothing about Triton:
the network is a function.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging import images
from imaging.colors import mix
from imaging.provenance import Provenance, file_hash
from reverie.errors import InputError
from serving.python_backend.admission import AdmissionController
from serving.python_backend.fair_share import CHECK_SECONDS, Check, FairShareScheduler
from serving.style.files import graph_for_tiles
from serving.style.margin import Margins
from serving.style.parameters import StylizeParameters
from serving.style.tiles import restyle_in_tiles

Network = Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, int]]
"""From uint8 (height, width, 3) and style weights float32 (styles,) to uint8 (height, width, 3), and the number of the
version that made it.
"""

LARGE_PIXELS = 1024 * 1024
"""Larger pictures are restyled one at a time."""
UNTILED_SIDE = 2048
"""Pictures with a longer side are restyled in tiles: in one piece the network takes 100 bytes a pixel, and on a GPU with
TensorRT its profile ends here, with the margin (`registry/configuration.py`).
"""
LARGE_AT_ONCE = 2
"""Large pictures of one client that are read, restyled or waiting for each other, and twice as many of all clients; they
take long, and others should not wait.
"""
PIXELS_AT_ONCE = 80_000_000
"""Of all pictures being worked on; one of the largest, and small ones beside it. Each takes up to about 12 bytes."""


@dataclass(frozen=True)
class _Caller:
    name: str
    check: Check
    """Called while a large picture waits, and between its tiles; what it raises ends the work."""


class Stylist:
    """Restyles with one version of the model `style`.

    Args:
        folder: the version's files.
        network: runs that version, or for a share of the calls a canary beside it.
    """

    def __init__(self, folder: Path, network: Network):
        self.styles: list[str] = json.loads((folder / "styles.json").read_text())
        self._folder = folder
        self._network = network
        self._pixels = PixelBudget(PIXELS_AT_ONCE)
        self._large = AdmissionController(2 * LARGE_AT_ONCE, LARGE_AT_ONCE, "large pictures")
        self._one_large = FairShareScheduler()

    def stylize(
        self, data: bytes, parameters: StylizeParameters, client: str = "", check: Check = lambda: None
    ) -> bytes:
        """Restyle an encoded picture.

        Args:
            client: whose it is; "" is all who have no name.
            check: called while a large picture waits, and between its tiles; what it raises ends the work.

        Raises:
            InputError: the picture or the name of a style is not accepted.
            Unavailable: too many large pictures are in work.
        """
        weights = parameters.weights(self.styles)
        height, width = images.measure(data)
        work = _enlarged(*images.size_within(height, width, parameters.size), parameters.detail)
        with (
            self._place_among_large(_is_large(*work), client),
            self._pixels.take(max(height * width, work[0] * work[1]), check),
        ):
            picture = images.decode_picture(data, longest=parameters.size)
            stylized, version = self._restyle_at(parameters.detail, picture.pixels, weights, _Caller(client, check))
            packet = self._provenance(parameters, weights, version).packet() if parameters.provenance else b""
            return _finished(picture, stylized, parameters, packet)

    def _restyle_at(
        self, detail: float, photo: np.ndarray, weights: np.ndarray, caller: _Caller
    ) -> tuple[np.ndarray, int]:
        height, width = photo.shape[:2]
        if detail == 1:
            return self._restyle(photo, weights, caller)
        stylized, version = self._restyle(images.resize(photo, *_enlarged(height, width, detail)), weights, caller)
        return images.resize(stylized, height, width), version

    def _restyle(self, photo: np.ndarray, weights: np.ndarray, caller: _Caller) -> tuple[np.ndarray, int]:
        height, width = photo.shape[:2]
        if not _is_large(height, width):
            return self._in_one_piece(photo, weights, caller.name)
        # One at a time: it uses all cores and takes memory, and large ones should not meet in a batch.
        with self._one_large.job(caller.name, caller.check) as turn:
            if max(height, width) <= UNTILED_SIDE:
                return self._in_one_piece(photo, weights, caller.name)
            graph = graph_for_tiles(self._folder)
            return restyle_in_tiles(graph, photo, weights, before_tile=turn.ask), int(self._folder.name)

    def _in_one_piece(self, photo: np.ndarray, weights: np.ndarray, client: str) -> tuple[np.ndarray, int]:
        stylized, version = self._network(Margins().put_on(photo), weights, client)
        return Margins().take_off(stylized), version

    def _provenance(self, parameters: StylizeParameters, weights: np.ndarray, version: int) -> Provenance:
        shares = {name: float(share) for name, share in zip(self.styles, weights, strict=True) if share}
        return Provenance(
            model="style",
            version=str(version),
            manifest_sha256=file_hash(self._folder.parent / str(version) / "manifest.json"),
            style=", ".join(f"{n}={s:.3g}" for n, s in shares.items()) if len(shares) > 1 else next(iter(shares)),
            parameters=parameters.model_dump(),
        )

    @contextlib.contextmanager
    def _place_among_large(self, is_large: bool, client: str) -> Iterator[None]:
        if not is_large:
            yield
            return
        self._large.acquire(client)
        try:
            yield
        finally:
            self._large.release(client)


def _finished(picture: images.Picture, stylized: np.ndarray, parameters: StylizeParameters, packet: bytes) -> bytes:
    mixed = mix(picture.pixels, stylized, parameters.strength, parameters.preserve_colors)
    format = picture.format if parameters.format == "same" else parameters.format
    return images.encode(mixed, format, parameters.quality, picture.alpha, picture.icc_profile, packet)


def _enlarged(height: int, width: int, detail: float) -> tuple[int, int]:
    """The size at which a picture is restyled.

    Raises:
        InputError: it is too large.
    """
    if max(height, width) * detail > images.MAX_SIDE:
        raise InputError(
            f"detail: {detail:g} times {width}x{height} pixels; accepted: sides of at most {images.MAX_SIDE} then; give "
            f"less detail or a smaller size"
        )
    return round(height * detail), round(width * detail)


def _is_large(height: int, width: int) -> bool:
    return height * width > LARGE_PIXELS or max(height, width) > UNTILED_SIDE


@dataclass
class PixelBudget:
    """Bounds the memory of requests that run at once; waits until there is room."""

    total: int
    taken: int = 0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, pixels: int, check: Check = lambda: None) -> Iterator[None]:
        """Hold `pixels` of the budget; more than the total counts as the total. `check` may raise while it waits."""
        pixels = min(pixels, self.total)
        while not self._is_taken(pixels):
            check()
        try:
            yield
        finally:
            with self._changed:
                self.taken -= pixels
                self._changed.notify_all()

    def _is_taken(self, pixels: int) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self.taken + pixels <= self.total, CHECK_SECONDS):
                return False
            self.taken += pixels
            return True
