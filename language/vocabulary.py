"""Words to ids and back, as the book's `TextVectorization` layer does it (listing 12-4).

Lower-cases, removes punctuation, splits on white space and keeps the most frequent words. It lives
outside the ONNX graph because tf2onnx cannot convert string operations; a vocabulary is a text file
beside the model, one word a line, its id the line number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

END = 0
"""Id of the padding token; as a prediction it ends the text (the pad after a short review)."""
UNKNOWN = 1
"""Id of every word outside the vocabulary."""

_PUNCTUATION = re.compile(r"[!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~']")


def words_of(text: str) -> list[str]:
    """Split `text` into lower-case words without punctuation.

    Example:
        >>> words_of("It's GREAT - really!")
        ['its', 'great', 'really']
    """
    return _PUNCTUATION.sub("", text.lower()).split()


@dataclass(frozen=True)
class Vocabulary:
    """A fixed list of words; `words[0]` is the end token "" and `words[1]` is "[UNK]".

    Raises:
        ValueError: the list does not start with "" and "[UNK]", or holds a word twice.
    """

    FILE: ClassVar = "vocabulary.txt"
    end: ClassVar = END
    begin: ClassVar[tuple[int, ...]] = ()
    banned: ClassVar = (UNKNOWN,)

    words: Sequence[str]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if list(self.words[:2]) != ["", "[UNK]"]:
            raise ValueError(f"a vocabulary starts with '' and '[UNK]', not with {list(self.words[:2])}")
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(self.words)})
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """The `size - 2` most frequent words of `texts`; ties go to the word that sorts first."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words_of(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(["", "[UNK]", *(word for word, _ in ranked[: size - 2])])

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote to the file or folder `path`."""
        path = path / cls.FILE if path.is_dir() else path
        return cls(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))

    def save(self, path: Path) -> None:
        """Write one word a line, UTF-8, to the file `path` or to `vocabulary.txt` in the folder `path`."""
        path = path / self.FILE if path.is_dir() else path
        path.write_text("\n".join(self.words) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of `text`; words outside the vocabulary become `UNKNOWN`."""
        return [self._ids.get(word, UNKNOWN) for word in words_of(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids` joined by spaces; `END` tokens are left out."""
        return " ".join(self.words[i] for i in ids if i != END)

    def token_bytes(self, token: int) -> bytes:
        """The word with the space before it; nothing for `END`."""
        return b"" if token == END else f" {self.words[token]}".encode()
