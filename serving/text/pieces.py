"""Text out of tokens, piece by piece: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextPieces:
    """Turns one sequence's tokens into pieces of text that can be shown at once.

    Args:
        stops: strings before which the text ends.

    Attributes:
        stopped: a stop string was reached; the text is complete.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stopped = False
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def add(self, data: bytes, last: bool = False) -> str:
        """The text that `data` completes; what may be the start of a stop string is held back.

        Args:
            data: bytes of the next tokens.
            last: no more will follow; nothing is held back then.
        """
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data, final=last)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = 0 if last else _possible_start(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _possible_start(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
