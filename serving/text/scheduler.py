"""Which sequences of one decoder go next: into a free slot, and into the next step.

Those that wait begin in their order, except those of a client that has its slots or its time already; whose sequences take
part in a step, `step_shares` says. Knows nothing about tokens; used by one thread.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

from serving.text.sequence import GenerationSequence
from serving.text.step_shares import StepShares


class StepScheduler:
    """The queue of a decoder, and what its clients have.

    Args:
        of_one: slots that one client may have.
        clock: seconds.
    """

    def __init__(self, of_one: int = sys.maxsize, clock: Callable[[], float] = time.monotonic):
        self._of_one, self._clock = of_one, clock
        self._waiting: deque[GenerationSequence] = deque()
        self._texts: Counter[str] = Counter()
        self._shares = StepShares()

    @property
    def waiting(self) -> int:
        """Sequences that have no slot yet."""
        return len(self._waiting)

    def add(self, sequence: GenerationSequence) -> None:
        """Let a sequence wait for a slot."""
        self._waiting.append(sequence)

    def drop(self, sequence: GenerationSequence) -> None:
        """Take a sequence that waits out of the queue."""
        self._waiting.remove(sequence)

    def begin_next(self) -> GenerationSequence | None:
        """The next sequence for a free slot, of those that may begin now."""
        found = next((sequence for sequence in self._waiting if self._may_begin(sequence.client)), None)
        if found is not None:
            self._waiting.remove(found)
            self._texts[found.client] += 1
        return found

    def end(self, sequence: GenerationSequence) -> None:
        """A sequence has left its slot."""
        self._texts -= Counter({sequence.client: 1})  # Drops zeros.

    @property
    def is_shared(self) -> bool:
        """Whether several clients have sequences in slots."""
        return len(self._texts) > 1

    def riders(self) -> set[str]:
        """The clients whose sequences may go on now; at least one sequence has a slot."""
        return self._shares.riders(self._texts) if self.is_shared else set(self._texts)

    @contextlib.contextmanager
    def charged(self, texts: Mapping[str, int]) -> Iterator[None]:
        """The time of this block is these clients', in proportion to their texts."""
        began = self._clock()
        try:
            yield
        finally:
            if self.is_shared:
                self._shares.charge(texts, self._clock() - began)

    def runs(self, everyone: slice, clients: Mapping[int, str]) -> list[slice]:
        """Neighboring slots to be stepped together: of those that may go on, or of all where that is not dearer.

        Args:
            everyone: the slots that are in use.
            clients: of the running sequences, by slot in ascending order.
        """
        riders = self.riders()
        if len(riders) == len(self._texts):
            return [everyone]
        runs: list[slice] = []
        for slot in (slot for slot, client in clients.items() if client in riders):
            if runs and runs[-1].stop == slot:
                runs[-1] = slice(runs[-1].start, slot + 1)
            else:
                runs.append(slice(slot, slot + 1))
        return runs if sum(map(_cost, runs)) < _cost(everyone) else [everyone]

    def _may_begin(self, client: str) -> bool:
        return client not in self._texts or (self._texts[client] < self._of_one and client in self.riders())


def _cost(rows: slice) -> int:
    """What a step of so many slots takes, in those of a slot; by hand, of the shipped model on 2 cores."""
    return 3 + rows.stop - rows.start
