"""Byte-level byte-pair encoding (Sennrich et al. 2016, in GPT-2's bytes): case, punctuation and spaces survive.

Every UTF-8 text has ids and comes back unchanged. A text that the model sees begins with the end
token, as in GPT-2, so an empty prompt can be continued.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_TOKEN = "<|end|>"


class BytePairs:
    """Ids of pieces of bytes; id 0 is `END_TOKEN`, which no text can spell.

    Args:
        tokenizer: a byte-level BPE of the `tokenizers` library whose id 0 is `END_TOKEN`.

    Raises:
        ValueError: id 0 is another token.
    """

    FILE: ClassVar = "tokenizer.json"
    end: ClassVar = 0
    begin: ClassVar = (0,)
    banned: ClassVar[tuple[int, ...]] = ()

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.id_to_token(self.end) != END_TOKEN:
            raise ValueError(f"id 0 is {tokenizer.id_to_token(self.end)!r}; expected {END_TOKEN!r}")
        # Otherwise a prompt that spells the end token would become one.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int) -> BytePairs:
        """Learn at most `size` pieces from `texts`; 257 of them are the bytes and the end."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END_TOKEN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> BytePairs:
        """Read what `save` wrote into `folder`."""
        return cls(Tokenizer.from_file(str(folder / cls.FILE)))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, the file of the `tokenizers` library, into `folder`."""
        self._tokenizer.save(str(folder / self.FILE), pretty=False)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `begin` and `end`; raises UnicodeEncodeError for a lone surrogate."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` without ends; bytes that are no UTF-8 become the replacement character."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for; none for the end."""
        return self._bytes[token]

    @cached_property
    def _bytes(self) -> list[bytes]:
        byte_of = {character: byte for byte, character in _byte_characters().items()}
        vocabulary = self._tokenizer.get_vocab()
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)[1:]
        return [b"", *(bytes(byte_of[character] for character in piece) for piece in pieces)]


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where it is printable Latin-1, else one from 256 up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
