"""Weights of a vocabulary: candidates, nuclei, draws and log-probabilities. Knows nothing about parameters and requests.

A batch of weights is float32 (rows, width), see `padded_width`, the largest of each row being 1. Sums are over groups of
neighboring columns, so that no draw sorts or sums up a whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUP = 128
"""Logits are padded to a multiple of this; see `padded_width`."""

FINE_GROUP = 16
"""Neighboring columns whose largest logit a model may hand over with the logits."""

_NUCLEUS_FLOORS = (2.0**-7, 2.0**-14, 0.0)
"""The nucleus is looked for among tokens of at least these weights, relative to the likeliest, one after the other."""

_FEW = 128
"""So many weights are sorted rather than halved again."""


def padded_width(vocabulary_size: int) -> int:
    """Columns of a logit buffer: a multiple of `GROUP`, and at least one more than there are tokens."""
    return (vocabulary_size // GROUP + 1) * GROUP


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities under the model itself, before any sampling parameter.

    Attributes:
        chosen: of the token that was chosen.
        top: the likeliest tokens and theirs, likeliest first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


def log_probabilities(logits: np.ndarray, token: int, top: int) -> Logprobs:
    """Log-probability of `token` and of the `top` likeliest tokens under softmax of `logits` (vocabulary,)."""
    shifted = logits - logits.max()
    normalizer = np.log(np.exp(shifted, dtype=np.float64).sum())
    likeliest = np.argpartition(shifted, -top)[-top:] if top else np.empty(0, np.int64)
    likeliest = likeliest[np.argsort(-shifted[likeliest], kind="stable")]
    pairs = tuple((int(i), float(shifted[i] - normalizer)) for i in likeliest)
    return Logprobs(float(shifted[token] - normalizer), pairs)


def candidates(logits: np.ndarray, maxima: np.ndarray, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens at or above their row's floor: ids and logits, (rows, most of any row), filled up with -inf.

    Only the groups whose largest logit reaches the floor are looked at.
    """
    rows, groups = maxima.shape
    found = np.flatnonzero(maxima >= floors[:, None])
    inside = logits.reshape(-1, FINE_GROUP).take(found, axis=0)
    if rows == 1:  # nothing to fill up, and most of a lone stream's draw
        hits = np.flatnonzero(inside >= floors[0])
        tokens = found[hits // FINE_GROUP] * FINE_GROUP + hits % FINE_GROUP
        return tokens[None], inside.reshape(-1)[hits][None]
    group_row = found // groups
    hits = np.flatnonzero(inside >= floors[group_row, None])
    group = hits // FINE_GROUP
    row = group_row[group]
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(hits)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.zeros((rows, int(counts.max())), np.int64)
    values = np.full(tokens.shape, -np.inf, np.float32)
    tokens[row, place] = (found - group_row * groups)[group] * FINE_GROUP + hits % FINE_GROUP
    values[row, place] = inside.reshape(-1)[hits]
    return tokens, values


def keep_nucleus(weights: np.ndarray, top_p: np.ndarray) -> None:
    """Zero the weights (rows, n) outside each row's nucleus; the likeliest token always stays."""
    ordered = -np.sort(-weights, axis=1)
    cumulative = np.cumsum(ordered, axis=1)
    size = (cumulative < (top_p * cumulative[:, -1])[:, None]).sum(axis=1)
    floor = ordered[np.arange(len(weights)), np.minimum(size, weights.shape[1] - 1)]
    weights[(weights < floor[:, None]) & (top_p < 1.0)[:, None]] = 0.0


def keep_nuclei(weights: np.ndarray, top_p: np.ndarray) -> None:
    """Zero the float32 weights (rows, width) outside each row's nucleus, where most of the vocabulary is left."""
    masses = top_p * _group_sums(weights)[:, -1]
    for row in np.flatnonzero(top_p < 1.0):
        weights[row] *= weights[row] >= _nucleus_floor(weights[row], masses[row])


def _nucleus_floor(weights: np.ndarray, mass: float) -> np.float32:
    """The weight of the least likely token among the likeliest that together have `mass`; the largest is 1.

    Halves the candidates, as quickselect does, until few are left to sort: sorting thousands takes most of a draw.
    """
    for floor in _NUCLEUS_FLOORS:
        candidates = weights[np.flatnonzero(weights >= floor)]
        if candidates.sum(dtype=np.float64) >= mass:
            break
    above = 0.0
    while len(candidates) > _FEW:
        is_upper = candidates >= candidates.mean()
        upper = candidates[np.flatnonzero(is_upper)]
        if len(upper) in (0, len(candidates)):
            break
        with_upper = above + upper.sum(dtype=np.float64)
        if with_upper >= mass:
            candidates = upper
        else:
            candidates, above = candidates[np.flatnonzero(~is_upper)], with_upper
    ordered = np.sort(candidates)[::-1]
    cumulative = above + np.cumsum(ordered, dtype=np.float64)
    return ordered[min(int(np.searchsorted(cumulative, mass)), len(ordered) - 1)]


def draw_among(tokens: np.ndarray, weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Inverse of each row's cumulative distribution: `tokens` and float64 `weights` are (rows, n)."""
    cumulative = np.cumsum(weights, axis=1)
    total = cumulative[:, -1]
    # A draw just below 1 can round to the total, where no token is left.
    target = np.minimum(draws * total, np.nextafter(total, 0.0))
    return tokens[np.arange(len(tokens)), (cumulative <= target[:, None]).sum(axis=1)]


def _group_sums(weights: np.ndarray) -> np.ndarray:
    """Cumulative sums over the groups of `GROUP` columns: float64 (rows, groups)."""
    return np.cumsum(weights.reshape(len(weights), -1, GROUP).sum(axis=2), axis=1, dtype=np.float64)


def draw_by_groups(weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Inverse of the cumulative distribution of float32 (rows, width), found group by group."""
    cumulative = _group_sums(weights)
    total, row = cumulative[:, -1], np.arange(len(weights))
    target = np.minimum(draws * total, np.nextafter(total, 0.0))
    group = (cumulative <= target[:, None]).sum(axis=1)
    before = np.where(group > 0, cumulative[row, group - 1], 0.0)
    inside = weights.reshape(len(weights), -1, GROUP)[row, group]
    place = (before[:, None] + np.cumsum(inside, axis=1, dtype=np.float64) <= target[:, None]).sum(axis=1)
    # The sums of a group in float32 and in float64 can differ by a rounding.
    last = GROUP - 1 - np.argmax(inside[:, ::-1] > 0, axis=1)
    return group * GROUP + np.minimum(place, last)
