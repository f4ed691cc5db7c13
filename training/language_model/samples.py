"""Continuations of a prompt during and after training (listing 12-7), generated on ids, never on text.

The loop runs the whole model for every token; serving has a cache of keys and values instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from language.sampling import sample
from language.tokenizer import Tokenizer


def continue_prompt(
    model: keras.Model,
    tokenizer: Tokenizer,
    prompt: str,
    words: int,
    temperatures: Sequence[float],
    seeds: Sequence[int],
) -> list[str]:
    """Return the prompt and up to `words` sampled tokens, once for each temperature and seed.

    A text stops at the end token or at the last position. Each has random numbers of its own.
    """
    ids = [*tokenizer.begin, *tokenizer.encode(prompt)]
    rngs = [np.random.default_rng(seed) for seed in seeds]
    rows = np.zeros((len(temperatures), model.config.positions), np.int32)
    rows[:, : len(ids)] = ids
    lengths = np.full(len(temperatures), len(ids), np.int32)
    running = set(range(len(temperatures)))
    for _ in range(min(words, model.config.positions - len(ids))):
        logits = model.next_token_logits(rows[:, : lengths.max()], lengths)
        scores = ops.convert_to_numpy(ops.cast(logits, "float32"))
        for row in sorted(running):
            token = sample(scores[row], rngs[row], temperatures[row], banned=tokenizer.banned)
            if token == tokenizer.end:
                running.remove(row)
            else:
                rows[row, lengths[row]] = token
                lengths[row] += 1
        if not running:
            break
    return [tokenizer.decode(row[:length].tolist()) for row, length in zip(rows, lengths, strict=True)]
