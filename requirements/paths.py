"""Options of a command, one a path, out of a list of paths as people type them to make, divided by NUL.

    mapfile -d '' -t styles < <(python requirements/paths.py --style "a painting.jpg other.jpg")

Paths with spaces may stand in quotes. Where they do not, words that together are the path of a file are one path.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path


def paths(text: str) -> list[str]:
    """The paths of a list, "~" as the user's home."""
    quoted = [_at_home(path) for path in _quoted(text)]
    joined = list(_longest(text.split(" ")))
    return quoted if _missing(quoted) <= _missing(joined) else joined


def _missing(found: list[str]) -> int:
    return sum(not Path(path).exists() for path in found)


def _quoted(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # An apostrophe in a name.
        return text.split()


def _longest(words: list[str]) -> Iterator[str]:
    """Each time the longest path that exists and begins here, else one word."""
    while words:
        counts = range(len(words), 0, -1)
        count = next((n for n in counts if Path(_at_home(" ".join(words[:n]))).exists()), 1)
        if path := " ".join(words[:count]):
            yield _at_home(path)
        words = words[count:]


def _at_home(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~/") else path


if __name__ == "__main__":
    option, text = sys.argv[1:]
    for path in paths(text):
        sys.stdout.buffer.write(b"".join(part.encode(errors="surrogateescape") + b"\0" for part in (option, path)))
