"""Take prompts into the cache, a chunk at a time, so that long ones do not stall the streams beside them."""

from __future__ import annotations

import numpy as np

from language.sampling import log_probabilities
from language.tokenizer import Tokenizer
from serving.text.decoder import PREFILL_CHUNK
from serving.text.request import TokenLogprobs
from serving.text.scheduler import StepScheduler
from serving.text.sequence import GenerationSequence
from serving.text.slots import SlotTable

PREFILL_BUDGET = 2 * PREFILL_CHUNK
"""Prompt tokens taken in between two steps at most, so that long prompts do not stall running streams."""
REPORTED_AT_ONCE, _REPORTED_COST = 16, 4
"""Prompt tokens whose log-probabilities are found between two steps at most, and what each takes of `PREFILL_BUDGET`."""


class PromptReader:
    """Reads the prompts of the sequences in one decoder's slots."""

    def __init__(self, slots: SlotTable, scheduler: StepScheduler, tokenizer: Tokenizer):
        self._slots, self._scheduler, self._tokenizer = slots, scheduler, tokenizer

    def begin(self, sequence: GenerationSequence) -> int:
        """Take in the first of a new sequence's prompt, or copy it from another that has it; returns its cost in tokens."""
        self._copy_from_others(sequence)
        # Until it is active, a step of the others may write to the next position that is not yet filled.
        self._slots.newest[sequence.slot], self._slots.position[sequence.slot] = 0, sequence.filled
        return self.take_in(sequence)

    def take_in(self, sequence: GenerationSequence) -> int:
        """Prefill one chunk; returns what it cost in tokens. A sequence whose prompt is in becomes active."""
        slot, first = sequence.slot, sequence.filled
        chunk = sequence.prefix[first : first + PREFILL_CHUNK]
        if sequence.reports_prompt and sequence.reported < first + len(chunk):
            return self._report_prompt(sequence, first + len(chunk))
        if chunk:
            with self._scheduler.charged({sequence.client: 1}):
                self._slots.decoder.prefill(slot, chunk, first)
            sequence.filled += len(chunk)
        self._slots.position[slot] = sequence.filled
        if sequence.filled == len(sequence.prefix):
            self._start(sequence)
        return len(chunk) + 1

    def _copy_from_others(self, sequence: GenerationSequence) -> None:
        """Copy the prompt's cache where another sequence here has it."""
        prefix = sequence.prefix
        for other in self._slots.occupied():
            if other is sequence or (sequence.reports_prompt and not _report_alike(other, sequence)):
                continue
            if other.filled == len(prefix) and other.prefix == prefix:
                self._slots.decoder.copy(other.slot, sequence.slot, other.filled)
                sequence.filled = sequence.reported = other.filled
                sequence.prompt_logprobs = other.prompt_logprobs
                break

    def _start(self, sequence: GenerationSequence) -> None:
        self._slots.start(sequence)
        if sequence.reports_prompt:
            sequence.logprobs += self._without_context(sequence) + sequence.prompt_logprobs

    def _report_prompt(self, sequence: GenerationSequence, end: int) -> int:
        """Log-probabilities of some of the prompt's tokens up to position `end`; returns what they cost in tokens.

        Each takes a step. What these leave in the cache is then prefilled as ever, so that a text does not depend on
        whether its prompt was reported.
        """
        slot, prompt, first = sequence.slot, sequence.task.prompt, sequence.reported
        for place in range(first, min(end, first + REPORTED_AT_ONCE)):
            with self._scheduler.charged({sequence.client: 1}):
                logits, _ = self._slots.decoder.step(np.array(prompt[place : place + 1]), np.array([place]), first=slot)
            if place >= len(self._tokenizer.begin):
                self._report(sequence, prompt[place + 1], logits[0])
            # A step of the others may write to the next position.
            self._slots.position[slot] = sequence.reported = place + 1
        return _REPORTED_COST * (sequence.reported - first)

    def _report(self, sequence: GenerationSequence, token: int, logits: np.ndarray) -> None:
        likeliest = sequence.task.parameters.logprobs or 0
        known = log_probabilities(logits[: len(self._tokenizer)], token, likeliest)
        sequence.prompt_logprobs.append(TokenLogprobs(token, known))

    def _without_context(self, sequence: GenerationSequence) -> list[TokenLogprobs]:
        """The echoed tokens that come after nothing; OpenAI's completions have null for the first one too."""
        begin, task = len(self._tokenizer.begin), sequence.task
        return [TokenLogprobs(token, None) for token in (*task.unseen, *task.prompt[begin : begin + 1])]


def _report_alike(one: GenerationSequence, other: GenerationSequence) -> bool:
    """Whether the prompts' log-probabilities of two sequences with the same prompt are the same."""
    return one.reports_prompt and one.task.parameters.logprobs == other.task.parameters.logprobs
