"""A picture file in, the picture in a style out, as a file: decode, network, colors, encode.

Safe to call from many threads, which is how the steps of different requests overlap. Knows nothing about Triton:
the network is a function.
"""

from __future__ import annotations

import contextlib
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
from serving.style.choice import AskedStyle, ChosenStyle, StyleChooser, StyleInput
from serving.style.files import graph_for_tiles
from serving.style.margin import Margins
from serving.style.parameters import StylizeParameters
from serving.style.tiles import restyle_in_tiles

Network = Callable[[np.ndarray, StyleInput, str, Path], np.ndarray]
"""From uint8 (height, width, 3), a style, a client's name and a version's folder to uint8 (height, width, 3)."""

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
    """Restyles with the model `style`.

    Args:
        network: runs a version.
        styles: says which version, and what it takes.
    """

    def __init__(self, network: Network, styles: StyleChooser):
        self._network = network
        self._styles = styles
        self._pixels = PixelBudget(PIXELS_AT_ONCE)
        self._large = AdmissionController(2 * LARGE_AT_ONCE, LARGE_AT_ONCE, "large pictures")
        self._one_large = FairShareScheduler()

    def stylize(
        self,
        data: bytes,
        parameters: StylizeParameters,
        client: str = "",
        check: Check = lambda: None,
        vector: np.ndarray | None = None,
        on_encode: Callable[[int], None] = lambda pixels: None,
    ) -> bytes:
        """Restyle an encoded picture.

        Args:
            client: whose it is; "" is all who have no name.
            check: called while a large picture waits, and between its tiles; what it raises ends the work.
            vector: float32, a style of the caller's own instead of a named one.
            on_encode: told the pixels of the picture before it becomes a file.

        Raises:
            InputError: the picture, the name of a style or the vector is not accepted.
            Unavailable: too many large pictures are in work.
        """
        style = self._styles.choose(AskedStyle(parameters, vector, client))
        height, width = images.measure(data)
        work = _enlarged(*images.size_within(height, width, parameters.size), parameters.detail)
        with (
            self._place_among_large(_is_large(*work), client),
            self._pixels.take(max(height * width, work[0] * work[1]), check),
        ):
            picture = images.decode_picture(data, longest=parameters.size)
            stylized = self._restyle_at(parameters.detail, picture.pixels, style, _Caller(client, check))
            packet = _provenance(parameters, style).packet() if parameters.provenance else b""
            on_encode(stylized.shape[0] * stylized.shape[1])
            return _finished(picture, stylized, parameters, packet)

    def styles(self, client: str = "") -> list[str]:
        """The names that a client may give; the first is what it gets without one."""
        return self._styles.names(client)

    def _restyle_at(self, detail: float, photo: np.ndarray, style: ChosenStyle, caller: _Caller) -> np.ndarray:
        height, width = photo.shape[:2]
        if detail == 1:
            return self._restyle(photo, style, caller)
        stylized = self._restyle(images.resize(photo, *_enlarged(height, width, detail)), style, caller)
        return images.resize(stylized, height, width)

    def _restyle(self, photo: np.ndarray, style: ChosenStyle, caller: _Caller) -> np.ndarray:
        height, width = photo.shape[:2]
        if not _is_large(height, width):
            return self._in_one_piece(photo, style, caller.name)
        # One at a time: it uses all cores and takes memory, and large ones should not meet in a batch.
        with self._one_large.job(caller.name, caller.check) as turn:
            if max(height, width) <= UNTILED_SIDE:
                return self._in_one_piece(photo, style, caller.name)
            return restyle_in_tiles(graph_for_tiles(style.folder), photo, style.inputs, before_tile=turn.ask)

    def _in_one_piece(self, photo: np.ndarray, style: ChosenStyle, client: str) -> np.ndarray:
        return Margins().take_off(self._network(Margins().put_on(photo), style.inputs, client, style.folder))

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


def _provenance(parameters: StylizeParameters, style: ChosenStyle) -> Provenance:
    return Provenance(
        model="style",
        version=style.folder.name,
        manifest_sha256=file_hash(style.folder / "manifest.json"),
        style=style.name,
        parameters=parameters.model_dump(),
    )


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
