"""Continuous batching: many texts share every step of one decoder, and come and go between steps.

In a round (`TextEngine.step`) the slots of texts that were cancelled are freed, free slots are filled from the queue, a
bounded part of new prompts is taken in, and all running texts are stepped at once; those of a client that has had more
than its share of time sit out until the others have caught up. A lone text is stepped on all cores.

An engine has no threads and no limits: it does what its owner says, in the owner's thread. `pool` runs one a core, each
in a process (`worker`), and bounds what they are given.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from language.tokenizer import Tokenizer
from serving.telemetry.decoder_metrics import DecoderMetrics
from serving.text.decoder import Decoder
from serving.text.detokenizer import IncrementalDetokenizer
from serving.text.prefill import PREFILL_BUDGET, PromptReader
from serving.text.request import CANCELLED, Task, TextDelta, TokenLogprobs, Update
from serving.text.scheduler import StepScheduler
from serving.text.sequence import GenerationSequence
from serving.text.slots import SlotTable

log = logging.getLogger("reverie")
Result = TypeVar("Result")

MODEL = "generate"
"""Whose decoder it is, in the metrics."""

_MIN_INTERVAL = 0.03
_MESSAGES_A_SECOND = 100
"""A stream's first token is sent at once; later ones wait for each other, the longer the more streams there are."""


class TextEngine:
    """One decoder and its scheduler; used by one thread.

    Args:
        decoder: that it alone uses.
        tokenizer: that the model was trained with.
        total_load: sequences in the slots of all engines of this machine that share its cores; default: of this.
        of_one: slots that one client may have; by default all.
        clock: seconds that clients are charged for.

    Attributes:
        positions: tokens of the longest text, its prompt included.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        total_load: Callable[[], int] | None = None,
        of_one: int = sys.maxsize,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.positions = decoder.positions
        self._tokenizer = tokenizer
        self._slots = SlotTable(decoder, len(tokenizer), tokenizer.end)
        self._total_load = total_load or (lambda: self._slots.load)
        self._scheduler = StepScheduler(of_one, clock)
        self._prompts = PromptReader(self._slots, self._scheduler, tokenizer)
        self._sequences: dict[int, GenerationSequence] = {}
        self._updates: list[Update] = []
        self._spoiled: list[tuple[GenerationSequence, Exception]] = []
        self._next_flush = 0.0
        self._metrics = DecoderMetrics(MODEL, decoder.slots)

    @property
    def load(self) -> int:
        """Continuations in slots."""
        return self._slots.load

    @property
    def waiting(self) -> int:
        """Continuations that have no slot yet."""
        return self._scheduler.waiting

    @property
    def is_idle(self) -> bool:
        """Whether `step` has nothing to do or to say."""
        return not (self._sequences or self._updates)

    def add(self, number: int, task: Task) -> None:
        """Begin a continuation; what `step` returns of it has this number."""
        sequence = GenerationSequence(
            number,
            task,
            task.parameters.sampling(self._tokenizer.banned, self._tokenizer.end),
            min(task.parameters.max_tokens, self.positions - len(task.prompt) + 1),
            IncrementalDetokenizer(task.parameters.stop),
        )
        if task.echo:
            sequence.text.append(task.echo)
        self._sequences[number] = sequence
        self._scheduler.add(sequence)

    def cancel(self, number: int) -> None:
        """End a continuation at the next step; nothing happens if it has ended."""
        sequence = self._sequences.get(number)
        if sequence is None:
            return
        sequence.cancelled = True
        if sequence.slot < 0:
            self._scheduler.drop(sequence)
            self._say(sequence, None, last=True)

    def step(self) -> list[Update]:
        """One round; returns what is new. An error ends the texts that it met, not the engine."""
        try:
            self._work()
        except Exception as error:
            log.exception("the text engine failed, and nothing tells whose text was to blame")
            self._spoiled = [(sequence, error) for sequence in self._slots.occupied()]
        self._fail_spoiled()
        if not self._sequences:
            self._metrics.flush(self.load)
        updates, self._updates = self._updates, []
        return updates

    def _say(self, sequence: GenerationSequence, content: TextDelta | BaseException | None, last: bool) -> None:
        self._updates.append((sequence.number, content, last))
        if last:
            del self._sequences[sequence.number]

    def _work(self) -> None:
        """End what was cancelled, begin what fits, step what runs."""
        for sequence in [s for s in self._slots.occupied() if s.cancelled]:
            self._attempt(self._finish, sequence, CANCELLED)
        self._admit()
        if self._slots.active.any():
            self._advance()

    def _attempt(self, act: Callable[..., Result], sequence: GenerationSequence, *arguments: Any) -> Result | None:
        """Do what concerns one sequence only: if it fails, this sequence fails, and None is returned."""
        try:
            return act(sequence, *arguments)
        except Exception as error:
            log.exception("a text of the engine failed")
            self._slots.active[sequence.slot] = False  # the rest of this round leaves it out
            self._spoiled.append((sequence, error))
            return None

    def _fail_spoiled(self) -> None:
        for sequence, error in self._spoiled:
            if self._slots.sequences[sequence.slot] is sequence:
                self._release(sequence)
            if sequence.number in self._sequences:
                self._say(sequence, error, last=True)
        self._spoiled.clear()

    def _admit(self) -> None:
        """Fill free slots, and take in prompts as far as the budget of this step goes."""
        budget = PREFILL_BUDGET
        for sequence in self._slots.occupied():
            if budget > 0 and not self._slots.active[sequence.slot] and sequence.client in self._scheduler.riders():
                budget -= self._attempt(self._prompts.take_in, sequence) or 1
        while budget > 0 and self._slots.free:
            found = self._scheduler.begin_next()
            if found is None:
                return
            self._slots.put(found)
            budget -= self._attempt(self._prompts.begin, found) or 1

    def _advance(self) -> None:
        """One step of every sequence whose client may go on."""
        everyone = self._slots.everyone()
        if not self._scheduler.is_shared:
            self._step(everyone)
            return
        clients = {slot: self._slots.at(slot).client for slot in self._slots.active_in(everyone)}
        # From the last slot down, because what is last moves into the gap where a text ends.
        for rows in reversed(self._scheduler.runs(everyone, clients)):
            texts = Counter(self._slots.at(slot).client for slot in self._slots.active_in(rows))
            with self._scheduler.charged(texts):
                self._step(rows)

    def _step(self, rows: slice) -> None:
        """One step of the running sequences in neighboring slots."""
        slots = self._slots
        tokens = self._next_tokens(rows)
        ended = slots.append(rows, tokens)
        active, watched = slots.active[rows], slots.watched[rows]
        self._metrics.step(int(np.count_nonzero(active)), slots.load)
        if watched.any():
            for row in np.flatnonzero(watched & active):
                ended[row] |= bool(self._attempt(self._watch_token, slots.at(rows.start + row), int(tokens[row])))
        self._show_new(rows, ended)
        ended &= active
        if ended.any():
            # From the last slot down, because what is last moves into the gap.
            for row in np.flatnonzero(ended)[::-1]:
                self._attempt(self._finish, slots.at(rows.start + row))

    def _next_tokens(self, rows: slice) -> np.ndarray:
        """The next token of each of these slots; of those that have no running sequence, any."""
        is_alone = self._slots.load == 1 and not self._scheduler.waiting and self._total_load() <= 1
        try:
            return self._slots.draw(rows, is_alone)
        except Exception:
            log.exception("a step of %d slots failed; each is now stepped apart", rows.stop - rows.start)
        tokens = np.zeros(rows.stop - rows.start, np.int64)
        for slot in self._slots.active_in(rows):
            tokens[slot - rows.start] = self._attempt(self._next_token, self._slots.at(slot)) or 0
        return tokens

    def _next_token(self, sequence: GenerationSequence) -> int:
        """One sequence's next token, from a step of its own."""
        return int(self._slots.draw(slice(sequence.slot, sequence.slot + 1))[0])

    def _watch_token(self, sequence: GenerationSequence, token: int) -> bool:
        """Look at a new token for stop strings and log-probabilities; returns whether the text has ended."""
        if sequence.sampling.logprobs is not None:
            entry = TokenLogprobs(token, self._slots.sampler.logprobs[sequence.slot])
            sequence.spans.add(entry, self._tokenizer.token_bytes(token))
        self._read_tokens(sequence)
        return sequence.detokenizer.stopped

    def _show_new(self, rows: slice, ended: np.ndarray) -> None:
        """Send what is new of the streams: first tokens at once, the others when the interval has passed.

        Args:
            rows: the slots that were stepped.
            ended: bool (n,), which of their texts have ended.
        """
        streaming = self._slots.streams & self._slots.active
        streaming[rows] &= ~ended
        now = time.monotonic()
        if now >= self._next_flush:
            # So all streams together make a bounded number of messages.
            self._next_flush = now + max(_MIN_INTERVAL, self._total_load() / _MESSAGES_A_SECOND)
        else:
            streaming[: rows.start] = streaming[rows.stop :] = False
            streaming &= self._slots.count == 1
        if streaming.any():
            for slot in np.flatnonzero(streaming):
                self._attempt(self._show, self._slots.at(slot))

    def _show(self, sequence: GenerationSequence) -> None:
        self._read_tokens(sequence)
        if sequence.text or sequence.logprobs:
            self._say(sequence, sequence.take(""), last=False)

    def _read_tokens(self, sequence: GenerationSequence, last: bool = False) -> None:
        """Turn the tokens that are new into text."""
        data = b"".join(map(self._tokenizer.token_bytes, self._slots.take_unread(sequence)))
        sequence.show(sequence.detokenizer.add(data, last), last)

    def _finish(self, sequence: GenerationSequence, reason: str = "") -> None:
        """Free a sequence's slot and send the last of its text."""
        self._read_tokens(sequence, last=True)
        is_stop = self._slots.has_ended(sequence.slot) or sequence.detokenizer.stopped
        reason = reason or ("stop" if is_stop else "length")
        self._release(sequence)
        self._say(sequence, sequence.take(reason), last=True)

    def _release(self, sequence: GenerationSequence) -> None:
        """Free a sequence's slot; where nobody waits for it, the last sequence moves there."""
        self._scheduler.end(sequence)
        self._slots.release(sequence.slot, fill=not self._scheduler.waiting)
