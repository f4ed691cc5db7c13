"""A job's pictures as files: with the transparency and the colors of its photograph, and saying how they were made."""

from __future__ import annotations

import numpy as np

from imaging import images
from synthesis.deepdream import zoomed


class ResultFiles:
    """Encodes the pictures of one job, in the order of their frames.

    Args:
        alpha: of the photograph, uint8 (height, width), at any size; None where it has no transparency.
        icc_profile: its color space; None for sRGB.
        packet: XMP, see `imaging.provenance`; empty for none.
        zoom: from one frame to the next.
    """

    def __init__(
        self, alpha: np.ndarray | None = None, icc_profile: bytes | None = None, packet: bytes = b"", zoom: float = 1.0
    ):
        self._alpha, self._icc_profile, self._packet, self._zoom = alpha, icc_profile, packet, zoom
        self._zooms = 0

    def encode(self, image: np.ndarray, format: str, quality: int = 92, zooms: int = 0) -> bytes:
        """A picture as a file, or with the format "raw" as its pixels; where there is no transparency, on white.

        Args:
            zooms: how often the photograph was enlarged for it; never less than before.
        """
        alpha = self._alpha_of(image.shape[0], image.shape[1], zooms)
        if format == "raw":
            return (image if alpha is None else images.on_white(image, alpha)).tobytes()
        return images.encode(image, format, quality, alpha, self._icc_profile, self._packet)

    def _alpha_of(self, height: int, width: int, zooms: int) -> np.ndarray | None:
        if self._alpha is None:
            return None
        while self._zooms < zooms:
            self._alpha, self._zooms = zoomed(self._alpha, self._zoom), self._zooms + 1
        return images.resize(self._alpha, height, width)
