"""Text files as texts, for all common encodings and line ends, and a count of the encodings.

Knows nothing about reviews, tokens or models.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENDINGS = {".txt"}
_MARKS = (
    # That of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_WESTERN = ("cp1252", "latin-1")
"""Tried where bytes are not UTF-8; the last takes anything."""


@dataclass
class Summary:
    """What was read.

    Attributes:
        encodings: files by the encoding they were read as.
        empty: files without a text.
        characters: of all texts.
    """

    encodings: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    characters: int = 0

    def __str__(self) -> str:
        files = ", ".join(f"{count:,} as {encoding}" for encoding, count in self.encodings.most_common())
        empty = f"; {self.empty:,} empty ones left out" if self.empty else ""
        return f"{self.encodings.total():,} texts ({files or 'none'}){empty}; {self.characters:,} characters"


def decode(data: bytes) -> tuple[str, str]:
    """Decode bytes to text with line feeds alone, and the encoding that was found.

    A byte order mark decides; else UTF-8, where the bytes are that; else UTF-16, where every other byte of the beginning is
    zero; else the Western Windows encoding.
    """
    encoding = _encoding(data)
    text = data.decode(encoding, errors="replace" if encoding.startswith("utf-") else "strict")
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding.removesuffix("-sig")


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    for encoding in (*_wide(data), "utf-8", *_WESTERN):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    raise AssertionError("latin-1 takes any bytes")


def _wide(data: bytes) -> Iterator[str]:
    """UTF-16 without a mark: of letters as they are most, every other byte is zero."""
    beginning = data[: 2 * (min(len(data), 512) // 2)]
    for encoding, zeros in (("utf-16-le", beginning[1::2]), ("utf-16-be", beginning[::2])):
        if len(zeros) >= 2 and zeros.count(0) > 0.7 * len(zeros):
            yield encoding


def read(data: bytes, summary: Summary) -> str | None:
    """Return one file's text and count it; None where it holds nothing but space."""
    text, encoding = decode(data)
    if not text.strip():
        summary.empty += 1
        return None
    summary.encodings[encoding] += 1
    summary.characters += len(text)
    return text


def parts(text: str, length: int) -> Iterator[str]:
    """Cut a long text at line ends into parts of about `length` characters; together they are the text."""
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= length:
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def is_text(path: Path) -> bool:
    """Return whether a single file is a text by its name."""
    return path.suffix.lower() in ENDINGS
