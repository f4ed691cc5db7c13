"""IMDB reviews as rows of ids, made once and memory-mapped.

Reads the official archive (or its unpacked folder), or any folder of `.txt` files. The test reviews
and the archive's non-review files (`urls_*.txt`, `imdbEr.txt`; the book trains on all of them) never
become training rows. Reviews longer than the context are cut into chunks, not cut off: as padded rows
of words, or as one packed stream of byte pairs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console

from language.byte_pairs import BytePairs
from language.tokenizer import Tokenizer, load_tokenizer
from language.vocabulary import Vocabulary
from reverie.errors import ToolkitError
from training import files
from training.downloads import fetch
from training.language_model import texts
from training.language_model.evaluate import REVIEWS_PROMPT

ARCHIVE_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ARCHIVE_MD5 = "7c2ac02c03563afcf9b574c7e56c153a"
VALIDATION_EVERY = 50
"""One training review in so many is held out for validation."""

_FEW = 100
"""Files; where there are fewer of somebody's own texts, they are cut into parts of about `_PART` characters."""
_PART = 2_000
_REVIEW = re.compile(r"(?:^|/)(train|test)/(?:pos|neg|unsup)/[^/]+\.txt$")


class DataError(ToolkitError):
    """Reviews cannot be found or read; the message says what to do."""


def download() -> Path:
    """Fetch the official archive; see `training.downloads.fetch`."""
    return fetch(ARCHIVE_URL, ARCHIVE_MD5, "fetch it by other means and give its path with --data (DATA=)")


def read_reviews(source: Path, split: str, summary: texts.Summary | None = None) -> Iterator[str]:
    """Yield the reviews of `split` in a fixed order, with `<br />` as a space; empty ones are left out.

    Args:
        source: a tar archive or folder in the layout of aclImdb; or a folder of `.txt` files without that layout, or
            one such file, of which every tenth is the test split. Where those are few, long ones count as several.
        split: "train" (which includes the unlabeled reviews) or "test".
        summary: counts what was read.

    Raises:
        DataError: `source` does not exist, cannot be read, or holds no reviews.
    """
    check_exists(source)
    summary = summary or texts.Summary()
    try:
        found = _from_archive(source, split, summary) if _is_archive(source) else _from_files(source, split, summary)
        for text in found:
            yield text.replace("<br />", " ")
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read: {error.strerror or error}") from error
    if not summary.encodings:
        raise DataError(
            f"{source} holds no {split} texts ({summary.empty} empty files); expected aclImdb/{split}/*/*.txt or .txt files"
        )


def check_exists(source: Path) -> None:
    """Raise DataError unless there is a file or folder at `source`."""
    if not source.exists():
        raise DataError(
            f"no reviews at {source}; give the aclImdb archive, its folder or a folder of .txt files with --data (DATA=)"
        )


def is_reviews(source: Path) -> bool:
    """Return whether `source` has the layout of aclImdb, and is not somebody's own texts."""
    return _is_archive(source) or any(_REVIEW.search(path.as_posix()) for path in _files(source))


def prompt_for(source: Path, words: int = 2) -> str:
    """Return what samples of a model of these texts begin with: the beginning of the first one, or the book's for reviews."""
    if is_reviews(source):
        return REVIEWS_PROMPT
    return " ".join(next(read_reviews(source, "train")).split()[:words])


def _is_archive(source: Path) -> bool:
    return source.is_file() and not texts.is_text(source)


def _from_archive(source: Path, split: str, summary: texts.Summary) -> Iterator[str]:
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                match = _REVIEW.search(member.name)
                file = archive.extractfile(member) if match and match[1] == split else None
                if file and (text := texts.read(file.read(), summary)):
                    yield text
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{source} is not a readable tar archive ({error}); accepted: the aclImdb archive whole, a folder of .txt "
            "files, or one .txt file"
        ) from error


def _from_files(source: Path, split: str, summary: texts.Summary) -> Iterator[str]:
    found = _files(source)
    of_split = [f for f in found if (m := _REVIEW.search(f.as_posix())) and m[1] == split]
    if any(_REVIEW.search(f.as_posix()) for f in found):
        yield from filter(None, (texts.read(file.read_bytes(), summary) for file in of_split))
    else:
        yield from (part for i, part in enumerate(_own(found, summary)) if (i % 10 == 9) == (split == "test"))


def _own(found: Sequence[Path], summary: texts.Summary) -> Iterator[str]:
    """Somebody's own texts; of few files parts, or nothing would be left to measure them with."""
    for file in found:
        text = texts.read(file.read_bytes(), summary)
        if text is not None:
            yield from texts.parts(text, _PART) if len(found) < _FEW else (text,)


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else files.files_below(source, texts.ENDINGS)


def rows_of(ids: list[int], length: int) -> Iterator[list[int]]:
    """Cut one review into rows of `length + 1` ids, padded with 0.

    A row shares its first id with the last of the row before, so every word but the review's first is
    predicted once; the pad after the last word is predicted too and means the end.
    """
    for start in range(0, len(ids), length):
        row = ids[start : start + length + 1]
        yield row + [0] * (length + 1 - len(row))


def encode_rows(texts: Iterable[str], vocabulary: Vocabulary, length: int) -> np.ndarray:
    """Return all rows of all texts: uint16 (rows, length + 1)."""
    chunks = [np.array(list(rows_of(vocabulary.encode(text), length)), np.uint16) for text in texts if text.strip()]
    return np.concatenate([c for c in chunks if len(c)])


def encode_stream(texts: Iterable[str], tokenizer: BytePairs, batch: int = 1_000) -> np.ndarray:
    """Return all texts one after the other, an end before each and after the last: uint16 (tokens,)."""
    pieces, waiting = [], iter(texts)
    while some := list(itertools.islice(waiting, batch)):
        pieces += [np.array([tokenizer.end, *ids], np.uint16) for ids in tokenizer.encode_batch(some)]
    return np.concatenate([*pieces, np.array([tokenizer.end], np.uint16)])


def rows_of_stream(stream: np.ndarray, length: int) -> np.ndarray:
    """Return a view of `stream` as rows of `length + 1` ids, each beginning with the last id of the one before.

    Raises:
        DataError: the stream is shorter than one row.
    """
    if len(stream) <= length:
        raise DataError(f"the texts hold {len(stream)} tokens; a row needs {length + 1}: give more text")
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]


@dataclass(frozen=True)
class Reviews:
    """The prepared data of one source.

    Attributes:
        tokenizer: of all rows.
        train, validation: uint16 (rows, length + 1), views of memory-mapped files.
        padded: rows end in id 0 that is no text (words); otherwise texts follow each other (byte pairs).
        info: `digest` of the training ids and the tokenizer; for each split `reviews`, their raw UTF-8 `bytes`, and `ids`.
    """

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    padded: bool
    info: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        source: Path,
        tokenization: str,
        vocabulary_size: int,
        length: int,
        cache: Path,
        tokenizer: Tokenizer | None = None,
    ) -> Reviews:
        """Tokenize `source` once into `cache` and map the result.

        Args:
            source: see `read_reviews`.
            tokenization: "words" (a row holds words of one review) or "byte_pairs" (rows of one packed stream).
            vocabulary_size: at most 65,536 (ids are uint16).
            length: positions the model sees.
            tokenizer: to use instead of one made from `source`.
        """
        check_exists(source)
        padded = tokenization == "words"
        folder = cache / _key(source, tokenization, vocabulary_size, length if padded else 0, tokenizer)
        if not (folder / "info.json").exists():
            _say(f"tokenizing {source} into {folder} (once)")
            _prepare_into(folder, source, vocabulary_size, length if padded else 0, tokenizer)
        train, validation = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in ("train", "validation"))
        if not padded:
            train, validation = rows_of_stream(train, length), rows_of_stream(validation, length)
        return cls(load_tokenizer(folder), train, validation, padded, json.loads((folder / "info.json").read_text()))


def _prepare_into(
    folder: Path, source: Path, vocabulary_size: int, length: int, tokenizer: Tokenizer | None = None
) -> None:
    """Make the files beside `folder` and move them there, so that neither a kill nor a second process leaves half."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        summary = texts.Summary()
        read = list(_reported(read_reviews(source, "train", summary)))
        _say(f"read {summary}")
        info = _tokenize(read, made, vocabulary_size, length, tokenizer) | {"read": str(summary)}
        _say(f"{info['train']['ids']:,} tokens to train on, {info['validation']['ids']:,} held out")
        (made / "info.json").write_text(json.dumps(info, indent=2) + "\n")
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "info.json").exists():  # otherwise another process was faster
                raise


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def _reported(read: Iterable[str], every: int = 20_000) -> Iterator[str]:
    """The same; says how far it is."""
    for count, text in enumerate(read, 1):
        if count % every == 0:
            _say(f"{count:,} texts read")
        yield text


def _tokenize(
    read: list[str], folder: Path, vocabulary_size: int, length: int, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """Write the tokenizer and both splits; `length` 0 makes streams of byte pairs, else padded rows of words."""
    splits = {
        "train": [t for i, t in enumerate(read) if i % VALIDATION_EVERY],
        "validation": [t for i, t in enumerate(read) if i % VALIDATION_EVERY == 0],
    }
    if not splits["train"]:
        raise DataError(f"there are {len(read)} texts to train on; at least 2 are needed, one of them to be held out")
    # The words are counted in the held-out reviews too, as the book's are; nothing is predicted from that.
    if tokenizer is None:
        tokenizer = (
            Vocabulary.from_texts(read, vocabulary_size)
            if length
            else BytePairs.from_texts(splits["train"], vocabulary_size)
        )
    tokenizer.save(folder)
    info: dict[str, Any] = {}
    for name, split in splits.items():
        _say(f"tokenizing {len(split):,} texts ({name})")
        ids = (
            encode_rows(split, tokenizer, length)
            if isinstance(tokenizer, Vocabulary)
            else encode_stream(split, cast(BytePairs, tokenizer))
        )
        np.save(folder / f"{name}.npy", ids)
        info[name] = {"reviews": len(split), "bytes": sum(len(t.encode()) for t in split), "ids": int(ids.size)}
    rows = hashlib.sha256((folder / "train.npy").read_bytes()).hexdigest()
    return {"digest": hashlib.sha256((rows + _pieces_digest(tokenizer)).encode()).hexdigest()} | info


def _pieces_digest(tokenizer: Tokenizer) -> str:
    """The same ids may be other texts."""
    return hashlib.sha256(b"\0".join(tokenizer.token_bytes(token) for token in range(len(tokenizer)))).hexdigest()


def _key(source: Path, tokenization: str, vocabulary_size: int, length: int, tokenizer: Tokenizer | None = None) -> str:
    content = files.digest([source]) if source.is_file() else files.digest(_files(source), source)
    what = f"{content}|{tokenization}|{vocabulary_size}|{length}"
    if tokenizer is not None:
        what += f"|{_pieces_digest(tokenizer)}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def inputs_and_targets(rows: np.ndarray, padded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids seen and ids to predict: two int32 (rows, length); targets are -1 where the input is padding."""
    ids = rows.astype(np.int32)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    return inputs, np.where(inputs == 0, -1, targets) if padded else targets


def batch_of(
    rows: np.ndarray, step: int, batch_size: int, seed: int, padded: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and targets of batch `step`: every epoch visits all rows once, in an order of its own.

    Returns:
        See `inputs_and_targets`; `batch_size` rows.
    """
    epoch, index = divmod(step, steps_per_epoch(rows, batch_size))
    order = _epoch_order(len(rows), seed, epoch)
    return inputs_and_targets(rows[np.sort(order[index * batch_size : (index + 1) * batch_size])], padded)


def steps_per_epoch(rows: np.ndarray, batch_size: int) -> int:
    """Return the number of whole batches in one pass over `rows`, at least one."""
    return max(1, len(rows) // batch_size)


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    key = (count, seed, epoch)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.default_rng((seed, epoch)).permutation(count)
    return _orders[key]
