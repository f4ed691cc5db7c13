"""Choose next tokens from logits: the book's softmax temperature (listings 12-1 and 12-7), for many rows at once.

The one place for sampling mathematics. Every row of a batch has parameters of its own and draws from random
numbers of its own, so what a request gets depends on nothing else in the batch. It departs from the book
where its code fails: weights are relative to the largest, so a small temperature cannot underflow to 0/0, and
temperature 0 is greedy.

A row is processed in this order: bias and bans, penalties, temperature, min-p, top-k, top-p, one draw.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

GROUP = 128
"""Logits are padded to a multiple of this; see `padded_width`."""

FINE_GROUP = 16
"""Neighboring columns whose largest logit a model may hand over with the logits."""

_NUCLEUS_FLOORS = (2.0**-7, 2.0**-14, 0.0)
"""The nucleus is looked for among tokens of at least these weights, relative to the likeliest, one after the other."""

_SMALLEST = np.float32(1e-15)
"""Smaller temperatures and repetition penalties count as this one: float32 would make them 0, or logits infinite."""

_FEW = 128
"""So many weights are sorted rather than halved again."""


def padded_width(vocabulary_size: int) -> int:
    """Columns of a logit buffer: a multiple of `GROUP`, and at least one more than there are tokens."""
    return (vocabulary_size // GROUP + 1) * GROUP


@dataclass(frozen=True)
class Sampling:
    """How one row chooses; names and meanings as in OpenAI's, Hugging Face's and vLLM's interfaces.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: only the k most probable tokens; 0 for all. Tokens as probable as the k-th stay.
        top_p: only the most probable tokens that together reach this share (Holtzman et al. 2020).
        min_p: only tokens at least this share as probable as the most probable one (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or text
            (Keskar et al. 2019, section 4.1).
        frequency_penalty: subtracted once for every time that a token is in the text.
        presence_penalty: subtracted once if a token is in the text.
        logit_bias: added to the logits of these tokens.
        banned: never chosen.
        logprobs: None, or how many of the likeliest tokens to report beside the chosen one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def penalizes(self) -> bool:
        """Whether the logits depend on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities under the model itself, before any sampling parameter.

    Attributes:
        chosen: of the token that was chosen.
        top: the likeliest tokens and theirs, likeliest first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class _Plan:
    """What stays the same from step to step until a row begins, ends or moves.

    Attributes:
        groups: in how many groups the largest logits are looked for.
        narrow: rows that top-k or min-p leave few tokens of.
        free: rows that at most top-p limits; `wide`: rows with a large top-k.
        limited, kth_group: rows with a top-k that groups can find, and where in their ascending order.
        only_top_k: all rows are such, and none has a min-p.
        reporting: rows that report log-probabilities.
    """

    row: np.ndarray
    groups: int
    narrow: np.ndarray
    free: np.ndarray
    wide: np.ndarray
    kth_group: np.ndarray
    limited: np.ndarray
    only_top_k: bool
    reporting: tuple[int, ...]


class BatchSampler:
    """Chooses one token for each of the first `n` rows of a logit buffer.

    Args:
        slots: rows at most.
        vocabulary_size: tokens.
        draws: random numbers, and so tokens, that one request can use at most.
    """

    def __init__(self, slots: int, vocabulary_size: int, draws: int):
        self.width = padded_width(vocabulary_size)
        self._vocabulary_size = vocabulary_size
        self._uniforms = np.zeros((slots, draws))
        self._drawn = np.zeros(slots, np.int64)
        self._sampling = [Sampling()] * slots
        self._edits = _Edits(slots, self._vocabulary_size)
        self._temperature = np.ones(slots, np.float32)
        self._top_k = np.ones(slots, np.int64)
        self._top_p = np.ones(slots, np.float64)
        self._log_min_p = np.full(slots, -np.inf, np.float32)
        self._rows = np.arange(slots)
        self._plans: dict[int, _Plan] = {}
        self._reporting: set[int] = set()
        self.logprobs: dict[int, Logprobs] = {}
        """By row, for the rows that asked: of the last `choose`, and of `choose_from` since."""

    def start(self, slot: int, sampling: Sampling, seed: tuple[int, ...], prompt: Sequence[int] = ()) -> None:
        """Give `slot` to a new request.

        Args:
            seed: of its random numbers; the same seed chooses the same tokens from the same logits.
            prompt: tokens that the repetition penalty counts.
        """
        greedy = sampling.temperature == 0
        # A greedy row takes the largest logit whatever the other parameters say, and the first of equals.
        self._uniforms[slot] = 0.0 if greedy else _uniforms(seed, self._uniforms.shape[1])
        self._drawn[slot] = 0
        self._sampling[slot] = sampling
        self._temperature[slot] = 1.0 if greedy else max(sampling.temperature, _SMALLEST)
        self._top_k[slot] = 1 if greedy else min(sampling.top_k or self._vocabulary_size, self._vocabulary_size)
        self._top_p[slot] = 1.0 if greedy else sampling.top_p
        with np.errstate(divide="ignore"):
            self._log_min_p[slot] = -np.inf if greedy else np.log(np.float32(sampling.min_p))
        self._edits.start(slot, sampling, prompt)
        (self._reporting.discard if sampling.logprobs is None else self._reporting.add)(slot)
        self._plans.clear()

    def stop(self, slot: int) -> None:
        """Free `slot`: the tokens chosen for it until its next `start` cost and mean nothing."""
        self._top_k[slot] = 1
        self._log_min_p[slot] = -np.inf
        self._top_p[slot] = 1.0
        self._uniforms[slot] = 0.0
        self._edits.stop(slot)
        self._reporting.discard(slot)
        self._plans.clear()

    def move(self, source: int, target: int) -> None:
        """Let the request in slot `source` go on in slot `target`."""
        for array in (self._uniforms, self._drawn, self._temperature, self._top_k, self._top_p, self._log_min_p):
            array[target] = array[source]
        self._sampling[target] = self._sampling[source]
        self._edits.move(source, target)
        (self._reporting.add if source in self._reporting else self._reporting.discard)(target)
        self._reporting.discard(source)
        self._plans.clear()

    def choose(self, logits: np.ndarray, maxima: np.ndarray | None = None) -> np.ndarray:
        """Draw the next token of every row, and count it where penalties need it.

        Args:
            logits: float32 (n, width), C-contiguous; changed in place. Columns from the vocabulary's end on
                must be far below the others.
            maxima: float32 (n, width / `FINE_GROUP`), C-contiguous, the largest logit of every `FINE_GROUP` columns;
                changed in place. None to have them computed.

        Returns:
            int64 (n,).

        Raises:
            FloatingPointError: a row's largest logit is NaN or infinite. No row has drawn then; `choose_from` tells
                which can.
        """
        rows = len(logits)
        if rows not in self._plans:
            self._plans[rows] = self._plan(rows)
        plan = self._plans[rows]
        raw = {slot: logits[slot, : self._vocabulary_size].copy() for slot in plan.reporting}
        if maxima is None:
            maxima = logits.reshape(rows, -1, FINE_GROUP).max(axis=2)
        self._edits.apply(logits, maxima)
        drawn = self._drawn[:rows]
        draws = self._uniforms[plan.row, drawn]
        tokens = self._draw(logits, maxima, draws, plan)
        drawn += 1
        np.minimum(drawn, self._uniforms.shape[1] - 1, out=drawn)
        self._edits.count(tokens)
        self.logprobs = {s: log_probabilities(raw[s], tokens[s], self._sampling[s].logprobs or 0) for s in raw}
        return tokens

    def choose_from(self, first: int, logits: np.ndarray, maxima: np.ndarray | None = None) -> np.ndarray:
        """Draw the next token of the `n` slots from `first` on: those that `choose` would draw for them in a batch.

        Args, Returns and Raises as of `choose`, of these rows alone.
        """
        if first == 0:
            return self.choose(logits, maxima)
        part = self._part(slice(first, first + len(logits)))
        tokens = part.choose(logits, maxima)
        self.logprobs.update({first + row: logprobs for row, logprobs in part.logprobs.items()})
        return tokens

    def _part(self, rows: slice) -> BatchSampler:
        """A sampler of neighboring slots; its arrays are views, so what it draws and counts stays here."""
        part = copy.copy(self)
        for name in ("_uniforms", "_drawn", "_temperature", "_top_k", "_top_p", "_log_min_p", "_sampling"):
            setattr(part, name, getattr(self, name)[rows])
        part._edits = self._edits.part(rows)
        part._plans = {}
        part._reporting = {slot - rows.start for slot in self._reporting if rows.start <= slot < rows.stop}
        return part

    def _plan(self, rows: int) -> _Plan:
        """What the parameters of the first `rows` slots mean for a step."""
        top_k, min_p = self._top_k[:rows], self._log_min_p[:rows]
        fine, coarse = self.width // FINE_GROUP, self.width // GROUP
        groups = fine if np.any((top_k > coarse) & (top_k <= fine)) else coarse
        limited = top_k <= groups
        is_narrow = limited | (min_p > -np.inf)
        is_free = ~is_narrow & (top_k == self._vocabulary_size)
        return _Plan(
            row=np.arange(rows),
            groups=groups,
            narrow=np.flatnonzero(is_narrow),
            free=np.flatnonzero(is_free),
            wide=np.flatnonzero(~is_narrow & ~is_free),
            kth_group=np.where(limited, groups - top_k, 0),
            limited=limited,
            only_top_k=bool(limited.all() and np.all(min_p == -np.inf)),
            reporting=tuple(slot for slot in self._reporting if slot < rows),
        )

    def _draw(self, logits: np.ndarray, maxima: np.ndarray, draws: np.ndarray, plan: _Plan) -> np.ndarray:
        rows = len(logits)
        coarse = maxima.reshape(rows, -1, plan.groups).max(axis=1) if plan.groups < maxima.shape[1] else maxima
        ordered = np.sort(coarse, axis=1)
        largest, floors = ordered[:, -1], self._floors(ordered, plan)
        if not math.isfinite(np.add.reduce(largest)):  # NaN is sorted to the end
            raise FloatingPointError("the model gave a logit that is NaN or infinite")
        if len(plan.narrow) == rows:
            return self._draw_narrow(logits, maxima, largest, floors, draws, plan.narrow)
        tokens = np.empty(rows, np.int64)
        if len(plan.narrow):
            some = plan.narrow
            tokens[some] = self._draw_narrow(logits[some], maxima[some], largest[some], floors[some], draws[some], some)
        if len(plan.free):
            weights = self._weights(logits[plan.free], largest[plan.free], plan.free)
            _keep_nuclei(weights, self._top_p[plan.free])
            tokens[plan.free] = _draw_by_groups(weights, draws[plan.free])
        for row in plan.wide:
            tokens[row] = self._draw_wide(logits[row : row + 1], largest[row : row + 1], draws[row : row + 1], row)
        return tokens

    def _floors(self, maxima: np.ndarray, plan: _Plan) -> np.ndarray:
        """A bound for every row that no token which can be chosen lies below.

        The k-th largest of the groups' maxima is such a bound for top-k: k tokens reach it.

        Args:
            maxima: float32 (rows, groups), in ascending order.
        """
        kth = maxima[plan.row, plan.kth_group]
        if plan.only_top_k:
            return kth
        rows = len(maxima)
        by_min_p = maxima[:, -1] + self._temperature[:rows] * self._log_min_p[:rows]
        return np.where(plan.limited, np.maximum(kth, by_min_p), by_min_p)

    def _draw_narrow(
        self,
        logits: np.ndarray,
        maxima: np.ndarray,
        largest: np.ndarray,
        floors: np.ndarray,
        draws: np.ndarray,
        slots: np.ndarray,
    ) -> np.ndarray:
        """Rows of which few tokens are left, all together."""
        tokens, values = _candidates(logits, maxima, floors)
        row, count = self._rows[: len(slots)], values.shape[1]
        kth = np.sort(values, axis=1)[row, count - np.minimum(self._top_k[slots], count)]
        weights = np.exp((values - largest[:, None]) / self._temperature[slots, None], dtype=np.float64)
        weights[values < kth[:, None]] = 0.0
        top_p = self._top_p[slots]
        if top_p.min() < 1.0:
            _keep_nucleus(weights, top_p)
        return _draw_among(tokens, weights, draws)

    def _draw_wide(self, logits: np.ndarray, largest: np.ndarray, draws: np.ndarray, slot: int) -> int:
        """One row, (1, width), of which a top-k leaves many tokens."""
        weights = self._weights(logits, largest, np.array([slot]))
        weights[weights < np.partition(weights[0], -self._top_k[slot])[-self._top_k[slot]]] = 0.0
        _keep_nuclei(weights, self._top_p[[slot]])
        return int(_draw_by_groups(weights, draws)[0])

    def _weights(self, logits: np.ndarray, largest: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """exp of the logits over the temperature, the largest being 1: float32 (rows, width)."""
        weights = logits - largest[:, None]
        weights /= self._temperature[slots, None]
        return np.exp(weights, out=weights)


def sample(
    logits: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    banned: tuple[int, ...] = (),
) -> int:
    """Draw one token id, as `BatchSampler` does for a batch.

    Args:
        logits: float array (vocabulary,).
        rng: seeds the draw.
    """
    sampler = BatchSampler(1, len(logits), draws=1)
    sampling = Sampling(temperature=temperature, top_k=top_k, banned=banned)
    sampler.start(0, sampling, (int(rng.integers(2**63)),))
    row = np.full((1, sampler.width), -np.inf, np.float32)
    row[0, : len(logits)] = logits
    return int(sampler.choose(row)[0])


def log_probabilities(logits: np.ndarray, token: int, top: int) -> Logprobs:
    """Log-probability of `token` and of the `top` likeliest tokens under softmax of `logits` (vocabulary,)."""
    shifted = logits - logits.max()
    normalizer = np.log(np.exp(shifted, dtype=np.float64).sum())
    likeliest = np.argpartition(shifted, -top)[-top:] if top else np.empty(0, np.int64)
    likeliest = likeliest[np.argsort(-shifted[likeliest], kind="stable")]
    pairs = tuple((int(i), float(shifted[i] - normalizer)) for i in likeliest)
    return Logprobs(float(shifted[token] - normalizer), pairs)


class _Edits:
    """Changes of single logits: biases, bans and penalties, as rectangles of (slot, entry).

    An unused entry points to the first column after the vocabulary, which is never chosen.
    """

    def __init__(self, slots: int, junk: int):
        self._junk = junk
        self._used = np.zeros(slots, np.int64)
        self._entry: list[dict[int, int]] = [{} for _ in range(slots)]
        self._rows = np.arange(slots)[:, None]
        self._counting = [False] * slots
        self._adding = [False] * slots
        self._repetition = np.ones(slots, np.float32)
        self._frequency = np.zeros(slots, np.float32)
        self._presence = np.zeros(slots, np.float32)
        self._tokens = np.full((slots, 8), junk, np.int64)
        self._bias = np.zeros((slots, 8), np.float32)
        self._seen = np.zeros((slots, 8), bool)
        self._count = np.zeros((slots, 8), np.float32)
        self._bans: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}
        """By number of rows: which logits and groups the rows ban, or None where they do more. Kept between changes."""

    @property
    def _rectangles(self) -> tuple[np.ndarray, ...]:
        return self._tokens, self._bias, self._seen, self._count

    def stop(self, slot: int) -> None:
        self._bans.clear()
        for array, empty in zip(self._rectangles, (self._junk, 0, False, 0), strict=True):
            array[slot] = empty
        self._entry[slot] = {}
        self._used[slot] = 0
        self._counting[slot] = self._adding[slot] = False

    def start(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.stop(slot)
        self._counting[slot] = sampling.penalizes
        # Other rows only ban tokens.
        self._adding[slot] = sampling.penalizes or bool(sampling.logit_bias)
        self._repetition[slot] = max(sampling.repetition_penalty, _SMALLEST)
        self._frequency[slot] = sampling.frequency_penalty
        self._presence[slot] = sampling.presence_penalty
        for token, bias in sampling.logit_bias.items():
            entry = self._entry_of(slot, token)
            self._bias[slot, entry] = bias
        for token in sampling.banned:
            entry = self._entry_of(slot, token)
            self._bias[slot, entry] = -np.inf
        if sampling.penalizes:
            for token in set(prompt):
                entry = self._entry_of(slot, token)
                self._seen[slot, entry] = True

    def move(self, source: int, target: int) -> None:
        self._bans.clear()
        vectors = (self._used, self._repetition, self._frequency, self._presence)
        for array in (*self._rectangles, *vectors):
            array[target] = array[source]
        self._entry[target], self._entry[source] = self._entry[source], {}
        self._counting[target] = self._counting[source]
        self._adding[target] = self._adding[source]

    def part(self, rows: slice) -> _Edits:
        """The edits of neighboring slots; see `BatchSampler._part`."""
        if self._used[rows].max() == self._tokens.shape[1]:
            self._widen()  # Now, because afterwards the rows would no longer be views.
        part = copy.copy(self)
        vectors = ("_used", "_entry", "_counting", "_adding", "_repetition", "_frequency", "_presence")
        for name in (*vectors, "_tokens", "_bias", "_seen", "_count"):
            setattr(part, name, getattr(self, name)[rows])
        part._bans = {}
        return part

    def apply(self, logits: np.ndarray, maxima: np.ndarray) -> None:
        """Edit the first rows in place, and the largest logits of the groups that they belong to."""
        rows = len(logits)
        if rows not in self._bans:
            self._bans[rows] = self._find_bans(rows, logits.shape[1])
        bans = self._bans[rows]
        if bans is not None:
            columns, groups = bans
            logits.reshape(-1)[columns] = -np.inf
        else:
            used = int(self._used[:rows].max())
            tokens, bias, seen, count = (array[:rows, :used] for array in self._rectangles)
            row = self._rows[:rows]
            self._add(logits, row, tokens, bias, seen, count)
            groups = (row * maxima.shape[1] + tokens // FINE_GROUP).reshape(-1)
        if len(groups):
            maxima.reshape(-1)[groups] = logits.reshape(-1, FINE_GROUP).take(groups, axis=0).max(axis=1)

    def _find_bans(self, rows: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Places in the flat logits and in their flat groups; None where a row does more than ban tokens."""
        if any(self._adding[:rows]):
            return None
        tokens = self._tokens[:rows, : int(self._used[:rows].max())]
        columns = (self._rows[:rows] * width + tokens).reshape(-1)
        return columns, columns // FINE_GROUP

    def _add(
        self,
        logits: np.ndarray,
        row: np.ndarray,
        tokens: np.ndarray,
        bias: np.ndarray,
        seen: np.ndarray,
        count: np.ndarray,
    ) -> None:
        rows = len(row)
        values = logits[row, tokens] + bias
        if any(self._counting[:rows]):
            penalty = np.where(seen, self._repetition[:rows, None], np.float32(1))
            values = np.where(values > 0, values / penalty, values * penalty)
            values -= self._frequency[:rows, None] * count + self._presence[:rows, None] * (count > 0)
        logits[row, tokens] = values
        logits[:, self._junk] = -np.inf

    def count(self, tokens: np.ndarray) -> None:
        """Remember the chosen tokens where penalties count them."""
        if not any(self._counting[: len(tokens)]):
            return
        for slot, token in enumerate(tokens.tolist()):
            if self._counting[slot]:
                entry = self._entry_of(slot, token)
                self._seen[slot, entry] = True
                self._count[slot, entry] += 1

    def _entry_of(self, slot: int, token: int) -> int:
        entries = self._entry[slot]
        if token not in entries:
            entries[token] = len(entries)
            self._used[slot] = len(entries)
            if len(entries) > self._tokens.shape[1]:
                self._widen()
            self._tokens[slot, entries[token]] = token
        return entries[token]

    def _widen(self) -> None:
        def double(array: np.ndarray, empty: float) -> np.ndarray:
            return np.concatenate([array, np.full_like(array, empty)], axis=1)

        self._tokens, self._bias = double(self._tokens, self._junk), double(self._bias, 0)
        self._seen, self._count = double(self._seen, False), double(self._count, 0)


def _uniforms(seed: tuple[int, ...], count: int) -> np.ndarray:
    """`count` numbers from 0 to 1 that `seed` determines, on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))).random(count)


def _candidates(logits: np.ndarray, maxima: np.ndarray, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _keep_nucleus(weights: np.ndarray, top_p: np.ndarray) -> None:
    """Zero the weights (rows, n) outside each row's nucleus; the likeliest token always stays."""
    ordered = -np.sort(-weights, axis=1)
    cumulative = np.cumsum(ordered, axis=1)
    size = (cumulative < (top_p * cumulative[:, -1])[:, None]).sum(axis=1)
    floor = ordered[np.arange(len(weights)), np.minimum(size, weights.shape[1] - 1)]
    weights[(weights < floor[:, None]) & (top_p < 1.0)[:, None]] = 0.0


def _keep_nuclei(weights: np.ndarray, top_p: np.ndarray) -> None:
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


def _draw_among(tokens: np.ndarray, weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Inverse of each row's cumulative distribution: `tokens` and float64 `weights` are (rows, n)."""
    cumulative = np.cumsum(weights, axis=1)
    total = cumulative[:, -1]
    # A draw just below 1 can round to the total, where no token is left.
    target = np.minimum(draws * total, np.nextafter(total, 0.0))
    return tokens[np.arange(len(tokens)), (cumulative <= target[:, None]).sum(axis=1)]


def _group_sums(weights: np.ndarray) -> np.ndarray:
    """Cumulative sums over the groups of `GROUP` columns: float64 (rows, groups)."""
    return np.cumsum(weights.reshape(len(weights), -1, GROUP).sum(axis=2), axis=1, dtype=np.float64)


def _draw_by_groups(weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
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
