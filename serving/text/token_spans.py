"""Which tokens the shown text consists of, where some of it is held back and a stop string may cut it."""

from __future__ import annotations

import codecs
from collections import deque
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class TokenSpans(Generic[Entry]):
    """Keeps the tokens of one sequence until their text is shown."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting: deque[tuple[Entry, list[int]]] = deque()
        """Tokens, and for each of their bytes the place of its character in the text."""
        self._read = 0
        self._shown = 0

    def add(self, entry: Entry, data: bytes) -> None:
        """The next token, and its bytes."""
        self._waiting.append((entry, [self._place_of(byte) for byte in data]))

    def show(self, characters: int) -> list[Entry]:
        """So many more characters are shown; returns the tokens that are whole now."""
        self._shown += characters
        whole: list[Entry] = []
        while self._waiting and all(place < self._shown for place in self._waiting[0][1]):
            whole.append(self._waiting.popleft()[0])
        return whole

    def rest(self) -> list[Entry]:
        """All others: the text is complete."""
        whole = [entry for entry, _ in self._waiting]
        self._waiting.clear()
        return whole

    def cut(self) -> tuple[Entry, int] | None:
        """The text ends here: the token that it ends in the middle of, and how many of its bytes are shown."""
        found = self._waiting[0] if self._waiting else None
        self._waiting.clear()
        if found is None:
            return None
        entry, places = found
        shown = sum(place < self._shown for place in places)
        return (entry, shown) if shown else None

    def _place_of(self, byte: int) -> int:
        """The character that `byte` is of: the one that it ends, or one that still lacks bytes."""
        self._read += len(self._decoder.decode(bytes([byte])))
        lacks_bytes = bool(self._decoder.getstate()[0])
        return self._read if lacks_bytes else self._read - 1
