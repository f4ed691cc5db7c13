"""What training, export and serving ask of a tokenizer, and how one is found beside a model.

Two exist: `language.vocabulary.Vocabulary` (the book's words) and `language.byte_pairs.BytePairs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def end(self) -> int:
        """Id that ends a text."""

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids put before every prompt; where there are any, a prompt may be empty."""

    @property
    def banned(self) -> tuple[int, ...]:
        """Ids that are not sampled unless asked for."""

    def __len__(self) -> int:
        """Number of ids; every id is below it."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `begin` and `end`."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; end tokens are left out."""

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that `token` adds to a text; none for the end. A character may need several tokens."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file into `folder`, for `load_tokenizer`."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose file lies in `folder`.

    Raises:
        FileNotFoundError: `folder` holds neither kind of file.
    """
    from language.byte_pairs import BytePairs
    from language.vocabulary import Vocabulary

    for kind in (BytePairs, Vocabulary):
        if (folder / kind.FILE).exists():
            return kind.load(folder)
    raise FileNotFoundError(f"{folder} holds no {BytePairs.FILE} and no {Vocabulary.FILE}")
