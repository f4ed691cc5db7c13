"""Which colors the numbers of a video mean, and the way to RGB and back that keeps them.

A video is luma and two chroma planes; a matrix makes RGB of them, in a full or a limited range. Players take both, and
primaries and transfer, from the video's tags (code points of ITU-T H.273). Whoever converts with one matrix and leaves
another's tag, or none, has changed the colors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_UNSAID = 2
_RESERVED = (0, 3)
_BT709, _BT601_625, _BT601_525 = 1, 5, 6
_SRGB_TRANSFER = 13
_TO_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""Matrices of H.273 that FFmpeg's converter knows, and its own number for each."""
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class Colors:
    """Tags of a video.

    Attributes:
        matrix: one of `_TO_SWSCALE`.
        primaries, transfer: as the source says; 2 where it says nothing.
        range: 1 limited (luma 16 to 235), 2 full.
    """

    matrix: int = _BT709
    primaries: int = _UNSAID
    transfer: int = _UNSAID
    range: int = _LIMITED

    @classmethod
    def of_stream(cls, context: Any) -> Colors:
        """Return the tags of an open PyAV decoder; a matrix that is missing is the one that players take for such a size."""
        format = context.format
        if format and format.is_rgb:
            return cls(_BT709, _known(context.color_primaries), _known(context.color_trc))
        said = context.colorspace
        matrix = said if said in _TO_SWSCALE else _usual_matrix(context.height, context.width)
        is_full = context.color_range == _FULL or (context.pix_fmt or "").startswith("yuvj")
        return cls(matrix, _known(context.color_primaries), _known(context.color_trc), _FULL if is_full else _LIMITED)

    def to_rgb(self, frame: Any) -> np.ndarray:
        """Return a decoded PyAV frame as uint8 (height, width, 3)."""
        if not frame.format.is_rgb:
            frame.colorspace, frame.color_range = self.matrix, self.range
        return frame.to_ndarray(format="rgb24")

    def to_frame(self, frame: Any) -> Any:
        """Return a PyAV frame of RGB as one of these colors, 4:2:0."""
        to = _TO_SWSCALE[self.matrix]
        converted = frame.reformat(format="yuv420p", dst_colorspace=to, dst_color_range=self.range)
        converted.colorspace = self.matrix
        return converted

    def tag(self, context: Any) -> None:
        """Have a PyAV encoder write these tags."""
        context.colorspace, context.color_range = self.matrix, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer


PICTURES = Colors(_BT709, _BT709, _SRGB_TRANSFER)
"""Of a video that is made of pictures, which are sRGB."""


def _known(code: int) -> int:
    return _UNSAID if code in _RESERVED else code


def _usual_matrix(height: int, width: int) -> int:
    """BT.709 from high definition on, else BT.601, as mpv and browsers have it."""
    if width >= 1280 or height > 576:
        return _BT709
    return _BT601_625 if height == 576 else _BT601_525
