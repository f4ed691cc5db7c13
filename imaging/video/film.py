"""What a film is to those who read, change and write one: frames, with the time that each is shown, and their look.

Knows nothing about files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from imaging.video.colors import PICTURES, Colors


@dataclass(frozen=True)
class Frame:
    """A picture of a film.

    Attributes:
        pixels: uint8 (height, width, 3), RGB.
        start: when it is shown, in units of the film's `time_base`.
        duration: for how long.
    """

    pixels: np.ndarray
    start: int
    duration: int


@dataclass(frozen=True)
class Look:
    """What the frames of a film share.

    Attributes:
        time_base: seconds.
        rate: frames a second, about.
        pixel_aspect: width of a pixel over its height.
        colors: of the file.
    """

    time_base: Fraction
    rate: Fraction
    pixel_aspect: Fraction = Fraction(1)
    colors: Colors = PICTURES


class Film(Protocol):
    """Something whose frames are read once, in order.

    Attributes:
        look: see `Look`.
        frame_count: as the file says; None if it does not.
        sound: PyAV's audio stream, or None.
        sound_packets: those met so far on the way to the frames; whoever writes them takes them away.
        damage: after the last frame, what of the file could not be read; empty for a whole file.
    """

    look: Look
    frame_count: int | None
    sound: Any
    sound_packets: deque[Any]
    damage: str

    def frames(self) -> Iterator[Frame]:
        """Yield every frame, in order."""
