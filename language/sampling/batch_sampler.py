"""One draw for every row of a batch, each with parameters and random numbers of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from language.sampling.distribution import (
    FINE_GROUP,
    GROUP,
    Logprobs,
    candidates,
    draw_among,
    draw_by_groups,
    keep_nuclei,
    keep_nucleus,
    log_probabilities,
    padded_width,
)
from language.sampling.parameters import SMALLEST, SamplingParameters
from language.sampling.penalties import LogitAdjustments


@dataclass(frozen=True)
class _BatchPlan:
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
        self._sampling = [SamplingParameters()] * slots
        self._adjustments = LogitAdjustments(slots, self._vocabulary_size)
        self._temperature = np.ones(slots, np.float32)
        self._top_k = np.ones(slots, np.int64)
        self._top_p = np.ones(slots, np.float64)
        self._log_min_p = np.full(slots, -np.inf, np.float32)
        self._rows = np.arange(slots)
        self._plans: dict[int, _BatchPlan] = {}
        self._reporting: set[int] = set()
        self.logprobs: dict[int, Logprobs] = {}
        """By row, for the rows that asked: of the last `choose`, and of `choose_from` since."""

    def start(self, slot: int, sampling: SamplingParameters, seed: tuple[int, ...], prompt: Sequence[int] = ()) -> None:
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
        self._temperature[slot] = 1.0 if greedy else max(sampling.temperature, SMALLEST)
        self._top_k[slot] = 1 if greedy else min(sampling.top_k or self._vocabulary_size, self._vocabulary_size)
        self._top_p[slot] = 1.0 if greedy else sampling.top_p
        with np.errstate(divide="ignore"):
            self._log_min_p[slot] = -np.inf if greedy else np.log(np.float32(sampling.min_p))
        self._adjustments.start(slot, sampling, prompt)
        (self._reporting.discard if sampling.logprobs is None else self._reporting.add)(slot)
        self._plans.clear()

    def stop(self, slot: int) -> None:
        """Free `slot`: the tokens chosen for it until its next `start` cost and mean nothing."""
        self._top_k[slot] = 1
        self._log_min_p[slot] = -np.inf
        self._top_p[slot] = 1.0
        self._uniforms[slot] = 0.0
        self._adjustments.stop(slot)
        self._reporting.discard(slot)
        self._plans.clear()

    def move(self, source: int, target: int) -> None:
        """Let the request in slot `source` go on in slot `target`."""
        for array in (self._uniforms, self._drawn, self._temperature, self._top_k, self._top_p, self._log_min_p):
            array[target] = array[source]
        self._sampling[target] = self._sampling[source]
        self._adjustments.move(source, target)
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
        self._adjustments.apply(logits, maxima)
        drawn = self._drawn[:rows]
        draws = self._uniforms[plan.row, drawn]
        tokens = self._draw(logits, maxima, draws, plan)
        drawn += 1
        np.minimum(drawn, self._uniforms.shape[1] - 1, out=drawn)
        self._adjustments.count(tokens)
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
        part._adjustments = self._adjustments.part(rows)
        part._plans = {}
        part._reporting = {slot - rows.start for slot in self._reporting if rows.start <= slot < rows.stop}
        return part

    def _plan(self, rows: int) -> _BatchPlan:
        """What the parameters of the first `rows` slots mean for a step."""
        top_k, min_p = self._top_k[:rows], self._log_min_p[:rows]
        fine, coarse = self.width // FINE_GROUP, self.width // GROUP
        groups = fine if np.any((top_k > coarse) & (top_k <= fine)) else coarse
        limited = top_k <= groups
        is_narrow = limited | (min_p > -np.inf)
        is_free = ~is_narrow & (top_k == self._vocabulary_size)
        return _BatchPlan(
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

    def _draw(self, logits: np.ndarray, maxima: np.ndarray, draws: np.ndarray, plan: _BatchPlan) -> np.ndarray:
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
            keep_nuclei(weights, self._top_p[plan.free])
            tokens[plan.free] = draw_by_groups(weights, draws[plan.free])
        for row in plan.wide:
            tokens[row] = self._draw_wide(logits[row : row + 1], largest[row : row + 1], draws[row : row + 1], row)
        return tokens

    def _floors(self, maxima: np.ndarray, plan: _BatchPlan) -> np.ndarray:
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
        tokens, values = candidates(logits, maxima, floors)
        row, count = self._rows[: len(slots)], values.shape[1]
        kth = np.sort(values, axis=1)[row, count - np.minimum(self._top_k[slots], count)]
        weights = np.exp((values - largest[:, None]) / self._temperature[slots, None], dtype=np.float64)
        weights[values < kth[:, None]] = 0.0
        top_p = self._top_p[slots]
        if top_p.min() < 1.0:
            keep_nucleus(weights, top_p)
        return draw_among(tokens, weights, draws)

    def _draw_wide(self, logits: np.ndarray, largest: np.ndarray, draws: np.ndarray, slot: int) -> int:
        """One row, (1, width), of which a top-k leaves many tokens."""
        weights = self._weights(logits, largest, np.array([slot]))
        weights[weights < np.partition(weights[0], -self._top_k[slot])[-self._top_k[slot]]] = 0.0
        keep_nuclei(weights, self._top_p[[slot]])
        return int(draw_by_groups(weights, draws)[0])

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
    sampling = SamplingParameters(temperature=temperature, top_k=top_k, banned=banned)
    sampler.start(0, sampling, (int(rng.integers(2**63)),))
    row = np.full((1, sampler.width), -np.inf, np.float32)
    row[0, : len(logits)] = logits
    return int(sampler.choose(row)[0])


def _uniforms(seed: tuple[int, ...], count: int) -> np.ndarray:
    """`count` numbers from 0 to 1 that `seed` determines, on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))).random(count)
