"""Measure a language model on the test reviews: `reverie eval lm`, `make eval-lm`.

Word models have a perplexity with the book's tokenization, models that keep all text have bits per byte of
the raw review; both have figures of their samples. Knows nothing about how a model was trained or is run: it
asks for the loss of tokens and for continuations (`Scored`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from language.tokenizer import Tokenizer
from language.vocabulary import Vocabulary, words_of
from language.windows import context_windows
from reverie.progress import followed, say

BOOK_WORDS = 100
"""The book looks at so many words of a review (listing 12-4)."""
BOOK_REVIEWS = 5_000
RAW_REVIEWS = 1_000
REVIEWS_PROMPT = "This movie"
"""What samples of models of reviews continue."""
TEMPERATURES = (0.2, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True)
class Scored:
    """A model as the measurements see it.

    Attributes:
        tokenizer, positions: of the model; no row is longer than `positions`.
        token_losses: int32 `(inputs, targets)`, both (rows, time), to float (rows, time): the negative
            log-likelihood in nats of each target, 0 where it is below 0.
        continue_prompt: `(prompt, tokens, temperatures, seeds)` to one text for each temperature and seed,
            the prompt included.
    """

    tokenizer: Tokenizer
    positions: int
    token_losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    continue_prompt: Callable[[str, int, Sequence[float], Sequence[int]], list[str]]


@dataclass(frozen=True)
class Row:
    """One input of the model and what is counted of its predictions.

    Attributes:
        ids: at most positions + 1; every id but the first is predicted from those before it.
        first_counted: index in `ids[1:]` of the first prediction that counts.
    """

    ids: Sequence[int]
    first_counted: int = 0


def evaluate(
    model: Scored, texts: Sequence[str], seed: int = 0, every_review: bool = False, prompt: str = REVIEWS_PROMPT
) -> dict[str, Any]:
    """Return all figures of `model` on the test texts.

    Args:
        prompt: what the samples continue.
        seed: of the choice of the reviews and of the samples.
        every_review: measure all of them, not 5,000 (words) or 1,000 (raw text).

    Returns:
        `book_word_perplexity` and `bits_per_byte`, None for the one that does not apply; the number
        of `texts` and `predictions`; `token_perplexity`; `samples` by temperature.
    """
    is_book = isinstance(model.tokenizer, Vocabulary)
    chosen = texts if every_review else choose(texts, BOOK_REVIEWS if is_book else RAW_REVIEWS, seed)
    measure = book_word_perplexity if is_book else bits_per_byte
    figures = {"book_word_perplexity": None, "bits_per_byte": None, "texts": len(chosen)}
    return figures | measure(model, chosen) | {"samples": sample_figures(model, prompt, seed)}


def choose(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return at most `count` of `texts`, the same for the same seed."""
    indices = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[i] for i in sorted(indices)]


def book_word_perplexity(model: Scored, texts: Sequence[str]) -> dict[str, float]:
    """Return the perplexity of words 2 to 100 of each review, lower-case and without punctuation; [UNK] is a word too."""
    encoded = (model.tokenizer.encode(text)[:BOOK_WORDS] for text in texts)
    nats, count = total_loss(model, [Row(ids) for ids in encoded if len(ids) > 1])
    perplexity = math.exp(nats / count)
    return {"book_word_perplexity": perplexity, "token_perplexity": perplexity, "predictions": count}


def bits_per_byte(model: Scored, texts: Sequence[str]) -> dict[str, float]:
    """Return the bits that the model needs for each UTF-8 byte of the raw reviews; the end of each review counts.

    A prediction sees its review only, at least half a context of it where there is as much.
    """
    rows = [row for text in texts for row in windows(model, model.tokenizer.encode(text))]
    nats, count = total_loss(model, rows)
    size = sum(len(text.encode()) for text in texts)
    return {
        "bits_per_byte": nats / math.log(2) / size,
        "token_perplexity": math.exp(nats / count),
        "predictions": count,
        "bytes": size,
    }


def windows(model: Scored, ids: Sequence[int]) -> Iterator[Row]:
    """Yield rows that predict every one of `ids` and the end once, each with half a context before what it predicts."""
    whole = [*model.tokenizer.begin, *ids, model.tokenizer.end]
    for start, end, first in context_windows(len(whole), model.positions, stride=model.positions // 2):
        yield Row(whole[start:end], first - start - 1)


def total_loss(model: Scored, rows: list[Row], batch_size: int = 32) -> tuple[float, int]:
    """Return the sum of the counted losses in nats, and their number; rows of like length share a batch."""
    total, count = 0.0, 0
    rows = sorted(rows, key=lambda row: len(row.ids))
    batches = range(0, len(rows), batch_size)
    for start in followed(batches, "measuring, batches of reviews", len(batches)):
        inputs, targets = _pad(rows[start : start + batch_size])
        total += float(np.asarray(model.token_losses(inputs, targets), np.float64).sum())
        count += int((targets >= 0).sum())
    return total, count


def _pad(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    length = max(len(row.ids) for row in rows) - 1
    inputs = np.zeros((len(rows), length), np.int32)
    targets = np.full((len(rows), length), -1, np.int32)
    for i, row in enumerate(rows):
        count = len(row.ids) - 1
        inputs[i, :count] = row.ids[:-1]
        targets[i, row.first_counted : count] = row.ids[1 + row.first_counted :]
    return inputs, targets


def sample_figures(
    model: Scored, prompt: str, seed: int, tokens: int = 90, count: int = 8
) -> dict[str, dict[str, float]]:
    """Measure how varied `count` continuations of `prompt` are at every temperature; print the first of each."""
    temperatures = [t for t in TEMPERATURES for _ in range(count)]
    seeds = [seed + i for _ in TEMPERATURES for i in range(count)]
    say(f"sampling {len(temperatures)} continuations of {prompt!r}")
    texts = model.continue_prompt(prompt, tokens, temperatures, seeds)
    figures = {}
    for i, temperature in enumerate(TEMPERATURES):
        some = texts[i * count : (i + 1) * count]
        figures[str(temperature)] = diversity(some)
        Console(stderr=True).print(
            f"== temperature {temperature}\n{some[0]}", markup=False, highlight=False, soft_wrap=True
        )
    return figures


def diversity(texts: Sequence[str]) -> dict[str, float]:
    """Return distinct-n (Li et al. 2016) over all texts, and rep-4 (Welleck et al. 2019): repeated 4-grams within a text."""
    words = [words_of(text) for text in texts]
    distinct = {f"distinct_{n}": _share_of_distinct([_ngrams(w, n) for w in words]) for n in (1, 2, 3)}
    repeated = [1 - _share_of_distinct([_ngrams(w, 4)]) for w in words if len(w) >= 4]
    return distinct | {"repeated_4grams": float(np.mean(repeated)) if repeated else 0.0}


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _share_of_distinct(ngrams: Sequence[list[tuple[str, ...]]]) -> float:
    every = [ngram for some in ngrams for ngram in some]
    return len(set(every)) / max(len(every), 1)
