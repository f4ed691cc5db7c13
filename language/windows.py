"""Windows over a text that is longer than a model's context, for whoever scores every token of it.

Knows nothing about models or tokenizers: it counts positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class ContextWindow(NamedTuple):
    """One part of a text that a model looks at.

    Attributes:
        start, end: the tokens `start` to `end - 1` of the text, at most a context and one.
        first: the tokens from here to `end - 1` are scored; those before are context.
    """

    start: int
    end: int
    first: int


def context_windows(length: int, positions: int, stride: int) -> Iterator[ContextWindow]:
    """Yield windows that score every token but the first once.

    Args:
        length: of the text, in tokens.
        positions: tokens that the model sees at once, the context.
        stride: tokens that each window after the first scores, 1 to `positions`. The other
            `positions + 1 - stride` are seen before them.

    Example:
        >>> list(context_windows(length=7, positions=4, stride=2))
        [(0, 5, 1), (2, 7, 5)]
    """
    start, first = 0, 1
    while first < length:
        end = min(length, start + positions + 1)
        yield ContextWindow(start, end, first)
        first, start = end, end + stride - (positions + 1)
