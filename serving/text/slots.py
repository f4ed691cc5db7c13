"""The slots of one decoder as arrays: what stands in each, and the next token of many at once. Knows no callers."""

from __future__ import annotations

import numpy as np

from language.sampling import BatchSampler
from serving.text.decoder import Decoder
from serving.text.sequence import GenerationSequence


class SlotTable:
    """Sequences in slots; neighboring ones are stepped together.

    Args:
        vocabulary_size: tokens.
        end: the token that ends a text.

    Attributes:
        decoder, sampler: the caches and the parameters of the slots.
        sequences: by slot; None where it is free.
        load: sequences in slots.
        newest, position: int (slots,), the newest token of each and where it stands.
        count: int (slots,), tokens that each has added.
        active: bool (slots,), whether its prompt is in, so that it takes part in steps.
        streams, watched: bool (slots,), whether its text is sent as it grows, and whether each token is looked at.
    """

    def __init__(self, decoder: Decoder, vocabulary_size: int, end: int):
        slots, positions = decoder.slots, decoder.positions
        self.decoder = decoder
        self.sampler = BatchSampler(slots, vocabulary_size, draws=positions + 1)
        self.sequences: list[GenerationSequence | None] = [None] * slots
        self.load = 0
        self.newest = np.zeros(slots, np.int64)
        self.position = np.zeros(slots, np.int64)
        self.count = np.zeros(slots, np.int64)
        self.active = np.zeros(slots, bool)
        self.streams = np.zeros(slots, bool)
        self.watched = np.zeros(slots, bool)
        self._end = end
        self._limit = np.zeros(slots, np.int64)
        self._tokens = np.zeros((slots, positions + 1), np.int64)
        self._rows = np.arange(slots)

    @property
    def free(self) -> int:
        """Free slots."""
        return len(self.sequences) - self.load

    def occupied(self) -> list[GenerationSequence]:
        """The sequences in slots."""
        return list(filter(None, self.sequences))

    def everyone(self) -> slice:
        """The slots up to the last sequence; there is one."""
        rows = len(self.sequences)
        while self.sequences[rows - 1] is None:
            rows -= 1
        return slice(0, rows)

    def active_in(self, rows: slice) -> list[int]:
        """The slots among these that have a running sequence."""
        return (rows.start + np.flatnonzero(self.active[rows])).tolist()

    def at(self, slot: int) -> GenerationSequence:
        """The sequence in a slot that is not free."""
        sequence = self.sequences[slot]
        assert sequence is not None
        return sequence

    def put(self, sequence: GenerationSequence) -> None:
        """Give a sequence the first free slot; its prompt comes later."""
        slot = sequence.slot = self.sequences.index(None)
        self.sequences[slot] = sequence
        self.load += 1
        self.count[slot], self._limit[slot] = 0, sequence.limit
        self.streams[slot], self.watched[slot] = sequence.task.parameters.stream, sequence.is_watched

    def start(self, sequence: GenerationSequence) -> None:
        """Let a sequence whose prompt is in take part in steps."""
        task, slot = sequence.task, sequence.slot
        # Not before: a step of the others draws for the slots between them too, and would use up its numbers.
        self.sampler.start(slot, sequence.sampling, (task.seed, task.index), task.prompt)
        self.newest[slot] = task.prompt[-1]
        self.active[slot] = True

    def draw(self, rows: slice, alone: bool = False) -> np.ndarray:
        """The next token of each of these slots, int64 (n,); of those that have no running sequence, any."""
        logits, maxima = self.decoder.step(self.newest[rows], self.position[rows], alone, rows.start)
        return self.sampler.choose_from(rows.start, logits, maxima)

    def append(self, rows: slice, tokens: np.ndarray) -> np.ndarray:
        """Add a token to the running sequences in these slots; returns bool (n,), which of them have ended by it."""
        active, count = self.active[rows], self.count[rows]
        self._tokens[self._rows[rows], count] = tokens
        np.copyto(self.newest[rows], tokens, where=active)
        count += active
        self.position[rows] += active
        ended = (tokens == self._end) | (count >= self._limit[rows])
        ended &= active
        return ended

    def take_unread(self, sequence: GenerationSequence) -> list[int]:
        """The tokens of a sequence that were not yet turned into text."""
        new = self._tokens[sequence.slot, sequence.shown : self.count[sequence.slot]].tolist()
        sequence.shown += len(new)
        return new

    def has_ended(self, slot: int) -> bool:
        """Whether the newest token of a slot is one that ends a text."""
        return bool(self.count[slot] > 0 and self.newest[slot] == self._end)

    def release(self, slot: int, fill: bool) -> None:
        """Free a slot.

        Args:
            fill: the last sequence moves into it, so that steps stay short.
        """
        self.load -= 1
        self._clear(slot)
        last = next(filter(None, reversed(self.sequences)), None)
        if fill and last is not None and last.slot > slot:
            self._move(last, slot)

    def _move(self, sequence: GenerationSequence, target: int) -> None:
        source = sequence.slot
        self.decoder.copy(source, target, int(self.position[source]))
        self.sampler.move(source, target)
        for array in (self.newest, self.position, self.count, self._limit, self.active, self.streams, self.watched, self._tokens):  # fmt: skip
            array[target] = array[source]
        self.sequences[target], sequence.slot = sequence, target
        self._clear(source)

    def _clear(self, slot: int) -> None:
        """Leave nothing in a slot that a step of the others could stumble over: its position counts as theirs do."""
        self.sequences[slot] = None
        self.active[slot] = False
        self.newest[slot] = self.position[slot] = 0
        self.sampler.stop(slot)
