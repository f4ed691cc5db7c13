"""Text out of tokens, piece by piece: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache


class IncrementalDetokenizer:
    """Turns one sequence's tokens into pieces of text that can be shown at once.

    Args:
        stops: strings before which the text ends; where several match, the one that is complete first, and of those
            the longest. None is empty.

    Attributes:
        stopped: a stop string was reached; the text is complete.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stopped = False
        self._stops = [StopString(stop) for stop in stops]
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
        new = self._decoder.decode(data, final=last)
        text = self._held + new
        end = self._read(new)
        if end is not None:
            self.stopped, text = True, text[: len(self._held) + end]
        keep = 0 if last or self.stopped else max((stop.matched for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _read(self, new: str) -> int | None:
        """Look for stop strings; returns where in `new` the first one begins, below 0 if before it."""
        if not self._stops:
            return None
        for place, character in enumerate(new, 1):
            found = [len(stop.text) for stop in self._stops if stop.takes(character)]
            if found:
                return place - max(found)
        return None


class StopString:
    """A stop string, and how much of it the text so far ends with (Knuth, Morris & Pratt 1977).

    Each character of the text costs the same, however long the string is.
    """

    def __init__(self, text: str):
        self.text = text
        self.matched = 0
        self._borders = _borders(text)

    def takes(self, character: str) -> bool:
        """Read the text's next character; returns whether the string is now complete."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._borders[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


@lru_cache(maxsize=256)
def _borders(text: str) -> tuple[int, ...]:
    """For each beginning of `text`, how long the longest shorter beginning is that it also ends with."""
    borders = [0]
    for character in text[1:]:
        border = borders[-1]
        while border and text[border] != character:
            border = borders[border - 1]
        borders.append(border + (text[border] == character))
    return tuple(borders)
