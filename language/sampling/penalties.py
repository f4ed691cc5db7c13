"""Biases, bans and penalties: changes of single logits before anything is drawn from them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from language.sampling.distribution import FINE_GROUP
from language.sampling.parameters import SMALLEST, SamplingParameters


class LogitAdjustments:
    """Changes of single logits: biases, bans and penalties, as rectangles of (slot, entry).

    An unused entry points to the first column after the vocabulary, which is never chosen.
    """

    def __init__(self, slots: int, padding_column: int):
        self._padding_column = padding_column
        self._used = np.zeros(slots, np.int64)
        self._entry: list[dict[int, int]] = [{} for _ in range(slots)]
        self._rows = np.arange(slots)[:, None]
        self._counting = [False] * slots
        self._adding = [False] * slots
        self._repetition = np.ones(slots, np.float32)
        self._frequency = np.zeros(slots, np.float32)
        self._presence = np.zeros(slots, np.float32)
        self._tokens = np.full((slots, 8), padding_column, np.int64)
        self._bias = np.zeros((slots, 8), np.float32)
        self._seen = np.zeros((slots, 8), bool)
        self._count = np.zeros((slots, 8), np.float32)
        self._bans: dict[int, tuple[np.ndarray, np.ndarray] | None] = {}
        """By number of rows: which logits and groups the rows ban, or None where they do more. Kept between changes."""

    @property
    def _rectangles(self) -> tuple[np.ndarray, ...]:
        return self._tokens, self._bias, self._seen, self._count

    def stop(self, slot: int) -> None:
        """Change nothing in `slot` until its next `start`."""
        self._bans.clear()
        for array, empty in zip(self._rectangles, (self._padding_column, 0, False, 0), strict=True):
            array[slot] = empty
        self._entry[slot] = {}
        self._used[slot] = 0
        self._counting[slot] = self._adding[slot] = False

    def start(self, slot: int, sampling: SamplingParameters, prompt: Sequence[int]) -> None:
        """Give `slot` to a new request; see `BatchSampler.start`."""
        self.stop(slot)
        self._counting[slot] = sampling.penalizes
        # Other rows only ban tokens.
        self._adding[slot] = sampling.penalizes or bool(sampling.logit_bias)
        self._repetition[slot] = max(sampling.repetition_penalty, SMALLEST)
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
        """Let the request in slot `source` go on in slot `target`."""
        self._bans.clear()
        vectors = (self._used, self._repetition, self._frequency, self._presence)
        for array in (*self._rectangles, *vectors):
            array[target] = array[source]
        self._entry[target], self._entry[source] = self._entry[source], {}
        self._counting[target] = self._counting[source]
        self._adding[target] = self._adding[source]

    def part(self, rows: slice) -> LogitAdjustments:
        """The adjustments of neighboring slots; its arrays are views, so what it counts stays here."""
        if self._used[rows].max() == self._tokens.shape[1]:
            self._widen()  # Now, because afterwards the rows would no longer be views.
        part = copy.copy(self)
        vectors = ("_used", "_entry", "_counting", "_adding", "_repetition", "_frequency", "_presence")
        for name in (*vectors, "_tokens", "_bias", "_seen", "_count"):
            setattr(part, name, getattr(self, name)[rows])
        part._bans = {}
        return part

    def apply(self, logits: np.ndarray, maxima: np.ndarray) -> None:
        """Change the first rows in place, and the largest logits of the groups that they belong to."""
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
        logits[:, self._padding_column] = -np.inf

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

        self._tokens, self._bias = double(self._tokens, self._padding_column), double(self._bias, 0)
        self._seen, self._count = double(self._seen, False), double(self._count, 0)
