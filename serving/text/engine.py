"""Continuous batching: many requests share every step of a decoder, and come and go between steps.

Each worker is a thread with a decoder of its own: it frees the slots of requests that ended or were cancelled,
fills free slots from one bounded queue, takes in a bounded part of new prompts, and then steps all its running
sequences at once; those of a client that has had more than its share of time sit out until the others have caught
up. A lone sequence is stepped on all cores. `pool` runs one such engine a core, each in a process.

Two more threads hand out the text and ask whether callers are still there; neither ever delays a step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from language.sampling import BatchSampler, Logprobs, SamplingParameters, log_probabilities
from language.tokenizer import Tokenizer, load_tokenizer
from reverie.errors import InputError, Unavailable
from serving.text.decoder import PREFILL_CHUNK, Decoder
from serving.text.detokenizer import IncrementalDetokenizer
from serving.text.parameters import GenerateParameters
from serving.text.step_shares import StepShares
from serving.text.token_spans import TokenSpans

log = logging.getLogger("reverie")
Result = TypeVar("Result")

PREFILL_BUDGET = 2 * PREFILL_CHUNK
"""Prompt tokens taken in between two steps at most, so that long prompts do not stall running streams."""
REPORTED_AT_ONCE, _REPORTED_COST = 16, 4
"""Prompt tokens whose log-probabilities are found between two steps at most, and what each takes of `PREFILL_BUDGET`."""
_MIN_INTERVAL = 0.03
_MESSAGES_A_SECOND = 100
"""A stream's first token is sent at once; later ones wait for each other, the longer the more streams there are."""
_WATCH_INTERVAL = 0.1
"""Seconds between questions whether a caller is still there: each costs a message to Triton."""
_MAX_ECHO = 100_000
"""Characters of a truncated prompt that is echoed token by token."""
_MAX_BYTES_A_TOKEN = 256
"""Prompts of more bytes than this for every position are refused unread."""


class QueueFull(Unavailable):
    """As many sequences are waiting as may."""


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of the text, and the log-probabilities where it was chosen.

    Attributes:
        logprobs: None where there is nothing to be probable after: at the text's first token, where the prompt is
            echoed, and at those that were cut off before it.
        shown: how many of its bytes are in the text; None for all. A stop string can begin within a token.
    """

    token: int
    logprobs: Logprobs | None
    shown: int | None = None


@dataclass(frozen=True)
class Piece:
    """New text of one continuation.

    Attributes:
        index: which of the request's `n` continuations.
        finish_reason: "stop", "length" or "cancelled" in a continuation's last piece, else "".
        logprobs: of the tokens in it, where asked for.
    """

    index: int
    text: str
    finish_reason: str
    logprobs: tuple[TokenLogprobs, ...] = ()


class Sink(Protocol):
    """Where a request's text goes; called from the engine's threads."""

    def send(self, pieces: list[Piece], last: bool) -> None:
        """Take new pieces; `last` says that none will follow."""

    def fail(self, error: BaseException) -> None:
        """Take an error instead of further pieces."""

    def cancelled(self) -> bool:
        """Whether nobody wants the text any more."""


class Collector:
    """A sink for a caller in this process that waits for the whole text."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def send(self, pieces: list[Piece], last: bool) -> None:
        self._pieces += pieces
        if last:
            self._ended.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()

    def cancelled(self) -> bool:
        return False

    def pieces(self) -> list[Piece]:
        """All pieces, once the last has come; raises what the request failed with."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._pieces


@dataclass(frozen=True)
class Task:
    """A checked request, as an engine in any process can take it.

    Attributes:
        prompt: token ids.
        echo: text to put in front.
        unseen: tokens of `echo` before those of the prompt.
        indices: of the continuations that are wanted.
        client: whose it is; "" is all who have no name.
    """

    parameters: GenerateParameters
    prompt: list[int]
    seed: int
    echo: str
    indices: tuple[int, ...]
    client: str = ""
    unseen: tuple[int, ...] = ()


@dataclass(eq=False)
class Request:
    """A caller's prompt and how far its `n` continuations are; guarded by the engine's lock.

    Attributes:
        prompt: token ids.
        limit: tokens that each continuation may add.
        waiting: indices of continuations that have no slot yet.
        running: continuations in slots.
        whole: finished continuations of a caller that does not stream.
        cancelled: nobody wants it any more.
        closed: its last message was queued.
        client: whose it is.
    """

    parameters: GenerateParameters
    prompt: list[int]
    sampling: SamplingParameters
    seed: int
    limit: int
    echo: str
    sink: Sink
    waiting: deque[int]
    running: list[Sequence] = field(default_factory=list)
    whole: list[Piece] = field(default_factory=list)
    cancelled: bool = False
    closed: bool = False
    client: str = ""
    unseen: tuple[int, ...] = ()

    @property
    def reports_prompt(self) -> bool:
        """Whether log-probabilities of the prompt's tokens are wanted."""
        return self.parameters.echo and self.parameters.logprobs is not None


@dataclass(eq=False)
class Sequence:
    """One continuation in a slot.

    Attributes:
        filled: prompt tokens that are in the cache.
        reported: prompt tokens after which the next one's log-probability is known, where it is wanted.
        prompt_logprobs: of the prompt, where wanted.
        shown: generated tokens that were turned into text.
        text, logprobs: not yet sent.
        spans: generated tokens with log-probabilities whose text is held back.
    """

    request: Request
    index: int
    worker: Worker
    slot: int
    pieces: IncrementalDetokenizer
    filled: int = 0
    reported: int = 0
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    shown: int = 0
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    spans: TokenSpans[TokenLogprobs] = field(default_factory=TokenSpans)

    @property
    def prefix(self) -> list[int]:
        """Prompt tokens that must be in the cache before the first step takes the last one."""
        return self.request.prompt[:-1]

    def show(self, text: str, last: bool) -> None:
        """Add what `pieces` gave to the text, and its tokens' log-probabilities."""
        if text:
            self.text.append(text)
        self.logprobs += self.spans.show(len(text))
        if self.pieces.stopped:
            self.logprobs += [replace(entry, shown=size) for entry, size in filter(None, [self.spans.cut()])]
        elif last:
            self.logprobs += self.spans.rest()

    def take(self, finish_reason: str) -> Piece:
        """What was not yet sent."""
        piece = Piece(self.index, "".join(self.text), finish_reason, tuple(self.logprobs))
        self.text.clear()
        self.logprobs.clear()
        return piece


class TextEngine:
    """Generates text for many callers at once.

    Args:
        decoders: one for each worker; the engine alone uses them.
        tokenizer: that the model was trained with.
        max_waiting: sequences that may wait for a slot.
        total_load: sequences in the slots of all engines of this machine that share its cores; default: of this.
        of_one: slots of a worker that one client may have; by default all.

    Attributes:
        positions: tokens of the longest text, its prompt included.
    """

    def __init__(
        self,
        decoders: Iterable[Decoder],
        tokenizer: Tokenizer,
        max_waiting: int = 512,
        total_load: Callable[[], int] | None = None,
        of_one: int = sys.maxsize,
    ):
        self.tokenizer = tokenizer
        self._total_load = total_load or (lambda: sum(worker.load for worker in self._workers))
        self._max_waiting, self._of_one = max_waiting, of_one
        self._waiting: deque[Request] = deque()
        self._live: set[Request] = set()
        self._closed = False
        self._outbox: queue.SimpleQueue = queue.SimpleQueue()
        self.work = threading.Condition()
        """Guards requests and the queue; notified when there may be something to do."""
        self._workers = [Worker(self, decoder) for decoder in decoders]
        self.positions = self._workers[0].decoder.positions
        targets = [*(worker.run for worker in self._workers), self._deliver, self._watch]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def submit(self, text: str, parameters: GenerateParameters, sink: Sink) -> None:
        """Queue a request; its text goes to `sink`.

        Raises:
            InputError: the prompt is too long or empty, or a parameter does not fit this model.
            QueueFull: too many sequences are waiting.
        """
        self.enqueue(task_of(text, parameters, self.tokenizer, self.positions), sink)

    def enqueue(self, task: Task, sink: Sink) -> Request:
        """Queue a checked request; see `submit`."""
        request = Request(
            task.parameters,
            task.prompt,
            task.parameters.sampling(self.tokenizer.banned, self.tokenizer.end),
            task.seed,
            limit=min(task.parameters.max_tokens, self.positions - len(task.prompt) + 1),
            echo=task.echo,
            sink=sink,
            waiting=deque(task.indices),
            client=task.client,
            unseen=task.unseen,
        )
        with self.work:
            queued = sum(len(r.waiting) for r in self._waiting)
            free = sum(worker.free_slots for worker in self._workers)
            if self._closed or queued + len(task.indices) > self._max_waiting + free:
                raise QueueFull(f"{queued} continuations are waiting; at most {self._max_waiting} may; try again later")
            self._waiting.append(request)
            self._live.add(request)
            self.work.notify_all()
        return request

    def cancel(self, request: Request) -> None:
        """End a request at the next step, as if its caller had gone."""
        with self.work:
            request.cancelled = True
            self.work.notify_all()

    def close(self) -> None:
        """End all requests as cancelled and stop the threads."""
        with self.work:
            self._closed = True
            for request in self._live:
                request.cancelled = True
            self.work.notify_all()
        for thread in self._threads[: len(self._workers)]:
            thread.join()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()

    # What workers ask; the lock is held by `self.work`.

    def wait(self, worker: Worker) -> bool:
        """Block until `worker` may have something to do; False once the engine is closed and empty."""
        if worker.load:
            return True
        with self.work:
            self.work.wait_for(lambda: self._waiting or self._closed)
            return bool(self._live) or not self._closed

    def next_sequence(self, worker: Worker, slot: int) -> Sequence | None:
        """The next continuation for a free slot: requests take turns, and the least loaded worker goes first."""
        with self.work:
            if worker.load > min(other.load for other in self._workers):
                return None
            request = next((r for r in self._waiting if worker.takes(r.client, self._of_one)), None)
            if request is None:
                return None
            self._waiting.remove(request)
            sequence = Sequence(
                request, request.waiting.popleft(), worker, slot, IncrementalDetokenizer(request.parameters.stop)
            )
            if request.waiting:
                self._waiting.append(request)
            if request.echo:
                sequence.text.append(request.echo)
            request.running.append(sequence)
            return sequence

    def is_alone(self, sequences: int) -> bool:
        """Whether a worker's `sequences` are the only one anywhere."""
        return sequences == 1 and not self._waiting and self._total_load() <= 1

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def message_interval(self) -> float:
        """Seconds between the messages of a stream, so that all streams together make a bounded number."""
        return max(_MIN_INTERVAL, self._total_load() / _MESSAGES_A_SECOND)

    def send(self, request: Request, piece: Piece) -> None:
        """Hand out a piece of a continuation that goes on."""
        with self.work:
            if not request.closed:
                self._outbox.put((request.sink.send, [piece], False))

    def finish(self, sequence: Sequence, piece: Piece) -> None:
        """Hand out the last piece of a continuation, and close its request if it was the last."""
        request = sequence.request
        with self.work:
            request.running.remove(sequence)
            last = not request.running and not request.waiting
            if request.parameters.stream:
                self._close_or_send(request, [piece], last)
            else:
                request.whole.append(piece)
                if last:
                    self._close_or_send(request, sorted(request.whole, key=lambda p: p.index), last)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """Give a request the error; its other continuations end unheard."""
        request = sequence.request
        with self.work:
            request.running.remove(sequence)
            if not request.closed:
                self._outbox.put((request.sink.fail, error))
                self._close(request)

    def drop_cancelled(self, worker: Worker) -> list[Sequence]:
        """Forget cancelled requests that wait; returns the cancelled sequences of `worker`."""
        with self.work:
            cancelled = [request for request in self._live if request.cancelled]
            for request in cancelled:
                if request.waiting:
                    request.waiting.clear()
                    self._waiting.remove(request)
                if not request.running and not request.closed:
                    self._close_or_send(request, request.whole, True)
            return [s for request in cancelled for s in request.running if s.worker is worker]

    def _close_or_send(self, request: Request, pieces: list[Piece], last: bool) -> None:
        if not request.closed:
            self._outbox.put((request.sink.send, pieces, last))
        if last:
            self._close(request)

    def _close(self, request: Request) -> None:
        request.closed = request.cancelled = True
        if request.waiting:
            request.waiting.clear()
            self._waiting.remove(request)
        if not request.running:
            self._live.discard(request)
            self.work.notify_all()

    # The engine's own threads.

    def _deliver(self) -> None:
        while (message := self._outbox.get()) is not None:
            call, *arguments = message
            try:
                call(*arguments)
            except Exception:
                log.exception("a caller could not be answered")

    def _watch(self) -> None:
        """Mark the requests whose callers have gone."""
        while not self._closed:
            time.sleep(_WATCH_INTERVAL)
            with self.work:
                live = [request for request in self._live if not request.cancelled]
            gone = [request for request in live if has_gone(request.sink)]
            with self.work:
                for request in gone:
                    request.cancelled = True


def has_gone(sink: Sink) -> bool:
    """Whether nobody wants the text any more; a sink that cannot say so counts as gone."""
    try:
        return sink.cancelled()
    except Exception:
        log.exception("a caller could not be asked whether it is still there")
        return True


class Worker:
    """One decoder and the sequences in its slots; all of it belongs to one thread.

    Attributes:
        load: sequences in slots.
    """

    def __init__(self, engine: TextEngine, decoder: Decoder):
        slots, positions = decoder.slots, decoder.positions
        self.engine, self.decoder = engine, decoder
        self.load = 0
        self._end = engine.tokenizer.end
        self._sampler = BatchSampler(slots, len(engine.tokenizer), draws=positions + 1)
        self._sequences: list[Sequence | None] = [None] * slots
        self._newest = np.zeros(slots, np.int64)
        self._position = np.zeros(slots, np.int64)
        self._count = np.zeros(slots, np.int64)
        self._limit = np.zeros(slots, np.int64)
        self._active = np.zeros(slots, bool)
        self._streams = np.zeros(slots, bool)
        self._watched = np.zeros(slots, bool)
        self._tokens = np.zeros((slots, positions + 1), np.int64)
        self._rows = np.arange(slots)
        self._texts: Counter[str] = Counter()
        self._shares = StepShares()
        self._clock = time.monotonic
        self._next_flush = 0.0
        self._spoiled: list[tuple[Sequence, Exception]] = []

    @property
    def free_slots(self) -> int:
        return len(self._sequences) - self.load

    def takes(self, client: str, of_one: int) -> bool:
        """Whether one more sequence of `client` may begin now.

        Args:
            of_one: sequences that one client may have here.
        """
        return client not in self._texts or (self._texts[client] < of_one and client in self._riders())

    def _riders(self) -> set[str]:
        """The clients whose sequences may go on now; see `StepShares`."""
        return set(self._texts) if len(self._texts) == 1 else self._shares.riders(self._texts)

    @contextlib.contextmanager
    def _charged(self, texts: Mapping[str, int]) -> Iterator[None]:
        """The time of this block is these clients', in proportion to their texts."""
        began = self._clock()
        try:
            yield
        finally:
            if len(self._texts) > 1:
                self._shares.charge(texts, self._clock() - began)

    def run(self) -> None:
        """Work until the engine is closed; an error ends the requests it met, not the worker."""
        while self.engine.wait(self):
            try:
                self._work()
            except Exception as error:
                log.exception("the text engine failed, and nothing tells whose text was to blame")
                self._spoiled = [(sequence, error) for sequence in filter(None, self._sequences)]
            self._fail_spoiled()

    def _work(self) -> None:
        """One round: end what was cancelled, begin what fits, step what runs."""
        for sequence in self.engine.drop_cancelled(self):
            self._attempt(self._finish, sequence, "cancelled")
        self._admit()
        if self._active.any():
            self._advance()

    def _attempt(self, act: Callable[..., Result], sequence: Sequence, *arguments: Any) -> Result | None:
        """Do what concerns one sequence only: if it fails, this sequence fails, and None is returned."""
        try:
            return act(sequence, *arguments)
        except Exception as error:
            log.exception("a text of the engine failed")
            self._active[sequence.slot] = False  # the rest of this round leaves it out
            self._spoiled.append((sequence, error))
            return None

    def _fail_spoiled(self) -> None:
        for sequence, error in self._spoiled:
            if self._sequences[sequence.slot] is sequence:
                self._release(sequence.slot)
            self.engine.fail(sequence, error)
        self._spoiled.clear()

    def _admit(self) -> None:
        """Fill free slots, and take in prompts as far as the budget of this step goes."""
        budget = PREFILL_BUDGET
        for sequence in list(filter(None, self._sequences)):
            if budget > 0 and not self._active[sequence.slot] and sequence.request.client in self._riders():
                budget -= self._attempt(self._take_in, sequence) or 1
        while budget > 0 and self.engine.has_waiting and self.free_slots:
            slot = self._sequences.index(None)
            found = self.engine.next_sequence(self, slot)
            if found is None:
                return
            self._sequences[slot] = found
            self._texts[found.request.client] += 1
            self.load += 1
            budget -= self._attempt(self._begin, found) or 1

    def _begin(self, sequence: Sequence) -> int:
        """Place a new sequence and take in the first of its prompt; returns what it cost in tokens."""
        self._place(sequence)
        return self._take_in(sequence)

    def _place(self, sequence: Sequence) -> None:
        """Set a slot up for a new sequence; the prompt's cache is copied where another one here has it."""
        request, slot, prefix = sequence.request, sequence.slot, sequence.prefix
        for other in filter(None, self._sequences):
            if other is sequence or (request.reports_prompt and other.request is not request):
                continue
            if other.filled == len(prefix) and other.prefix == prefix:
                self.decoder.copy(other.slot, slot, other.filled)
                sequence.filled = sequence.reported = other.filled
                sequence.prompt_logprobs = other.prompt_logprobs
                break
        self._count[slot], self._limit[slot] = 0, request.limit
        self._streams[slot] = request.parameters.stream
        self._watched[slot] = bool(request.parameters.stop) or request.sampling.logprobs is not None
        # Until it is active, a step of the others may write to the next position that is not yet filled.
        self._newest[slot], self._position[slot] = 0, sequence.filled

    def _take_in(self, sequence: Sequence) -> int:
        """Prefill one chunk; returns what it cost in tokens. A sequence whose prompt is in becomes active."""
        slot, first = sequence.slot, sequence.filled
        chunk = sequence.prefix[first : first + PREFILL_CHUNK]
        if sequence.request.reports_prompt and sequence.reported < first + len(chunk):
            return self._report_prompt(sequence, first + len(chunk))
        if chunk:
            with self._charged({sequence.request.client: 1}):
                self.decoder.prefill(slot, chunk, first)
            sequence.filled += len(chunk)
        self._position[slot] = sequence.filled
        if sequence.filled == len(sequence.prefix):
            self._start(sequence)
        return len(chunk) + 1

    def _start(self, sequence: Sequence) -> None:
        """Let a sequence whose prompt is in take part in steps."""
        request, slot = sequence.request, sequence.slot
        # Not before: a step of the others draws for the slots between them too, and would use up its numbers.
        self._sampler.start(slot, request.sampling, (request.seed, sequence.index), request.prompt)
        self._newest[slot] = request.prompt[-1]
        self._active[slot] = True
        if request.reports_prompt:
            sequence.logprobs += self._without_context(request) + sequence.prompt_logprobs

    def _report_prompt(self, sequence: Sequence, end: int) -> int:
        """Log-probabilities of some of the prompt's tokens up to position `end`; returns what they cost in tokens.

        Each takes a step. What these leave in the cache is then prefilled as ever, so that a text does not depend on
        whether its prompt was reported.
        """
        slot, prompt, first = sequence.slot, sequence.request.prompt, sequence.reported
        for place in range(first, min(end, first + REPORTED_AT_ONCE)):
            with self._charged({sequence.request.client: 1}):
                logits, _ = self.decoder.step(np.array(prompt[place : place + 1]), np.array([place]), first=slot)
            if place >= len(self.engine.tokenizer.begin):
                self._report(sequence, prompt[place + 1], logits[0])
            # A step of the others may write to the next position.
            self._position[slot] = sequence.reported = place + 1
        return _REPORTED_COST * (sequence.reported - first)

    def _report(self, sequence: Sequence, token: int, logits: np.ndarray) -> None:
        likeliest = sequence.request.parameters.logprobs or 0
        known = log_probabilities(logits[: len(self.engine.tokenizer)], token, likeliest)
        sequence.prompt_logprobs.append(TokenLogprobs(token, known))

    def _without_context(self, request: Request) -> list[TokenLogprobs]:
        """The echoed tokens that come after nothing; OpenAI's completions have null for the first one too."""
        begin = len(self.engine.tokenizer.begin)
        return [TokenLogprobs(token, None) for token in (*request.unseen, *request.prompt[begin : begin + 1])]

    def _advance(self) -> None:
        """One step of every sequence whose client may go on."""
        if len(self._texts) == 1:
            self._step(self._everyone())
            return
        # From the last slot down, because what is last moves into the gap where a text ends.
        for rows in reversed(self._runs()):
            with self._charged(Counter(self._at(slot).request.client for slot in self._active_in(rows))):
                self._step(rows)

    def _runs(self) -> list[slice]:
        """Neighboring slots to be stepped together: of those that may go on, or of all where that is not dearer."""
        everyone = self._everyone()
        if len(riders := self._riders()) == len(self._texts):
            return [everyone]
        runs: list[slice] = []
        for slot in self._active_in(everyone):
            if self._at(slot).request.client in riders:
                if runs and runs[-1].stop == slot:
                    runs[-1] = slice(runs[-1].start, slot + 1)
                else:
                    runs.append(slice(slot, slot + 1))
        return runs if sum(map(_cost, runs)) < _cost(everyone) else [everyone]

    def _everyone(self) -> slice:
        """The slots up to the last sequence."""
        rows = len(self._sequences)
        while self._sequences[rows - 1] is None:
            rows -= 1
        return slice(0, rows)

    def _active_in(self, rows: slice) -> list[int]:
        """The slots among these that have a running sequence."""
        return (rows.start + np.flatnonzero(self._active[rows])).tolist()

    def _step(self, rows: slice) -> None:
        """One step of the running sequences in neighboring slots."""
        tokens = self._next_tokens(rows)
        active, count = self._active[rows], self._count[rows]
        self._tokens[self._rows[rows], count] = tokens
        np.copyto(self._newest[rows], tokens, where=active)
        count += active
        self._position[rows] += active
        ended = (tokens == self._end) | (count >= self._limit[rows])
        ended &= active
        if self._watched[rows].any():
            for row in np.flatnonzero(self._watched[rows] & active):
                ended[row] |= bool(self._attempt(self._watch_token, self._at(rows.start + row), int(tokens[row])))
        self._show_new(rows, ended)
        ended &= active
        if ended.any():
            # From the last slot down, because what is last moves into the gap.
            for row in np.flatnonzero(ended)[::-1]:
                self._attempt(self._finish, self._at(rows.start + row))

    def _next_tokens(self, rows: slice) -> np.ndarray:
        """The next token of each of these slots; of those that have no running sequence, any."""
        try:
            return self._drawn(rows, self.engine.is_alone(self.load))
        except Exception:
            log.exception("a step of %d slots failed; each is now stepped apart", rows.stop - rows.start)
        tokens = np.zeros(rows.stop - rows.start, np.int64)
        for slot in self._active_in(rows):
            tokens[slot - rows.start] = self._attempt(self._next_token, self._at(slot)) or 0
        return tokens

    def _next_token(self, sequence: Sequence) -> int:
        """One sequence's next token, from a step of its own."""
        return int(self._drawn(slice(sequence.slot, sequence.slot + 1))[0])

    def _drawn(self, rows: slice, alone: bool = False) -> np.ndarray:
        logits, maxima = self.decoder.step(self._newest[rows], self._position[rows], alone, rows.start)
        return self._sampler.choose_from(rows.start, logits, maxima)

    def _at(self, slot: int) -> Sequence:
        sequence = self._sequences[slot]
        assert sequence is not None
        return sequence

    def _watch_token(self, sequence: Sequence, token: int) -> bool:
        """Look at a new token for stop strings and log-probabilities; returns whether the text has ended."""
        if sequence.request.sampling.logprobs is not None:
            entry = TokenLogprobs(token, self._sampler.logprobs[sequence.slot])
            sequence.spans.add(entry, self.engine.tokenizer.token_bytes(token))
        self._read_tokens(sequence)
        return sequence.pieces.stopped

    def _show_new(self, rows: slice, ended: np.ndarray) -> None:
        """Send what is new of the streams: first tokens at once, the others when the interval has passed.

        Args:
            rows: the slots that were stepped; ended: which of their texts have ended.
        """
        streaming = self._streams & self._active
        streaming[rows] &= ~ended
        now = time.monotonic()
        if now >= self._next_flush:
            self._next_flush = now + self.engine.message_interval
        else:
            streaming[: rows.start] = streaming[rows.stop :] = False
            streaming &= self._count == 1
        if streaming.any():
            for slot in np.flatnonzero(streaming):
                self._attempt(self._show, self._at(slot))

    def _show(self, sequence: Sequence) -> None:
        self._read_tokens(sequence)
        if sequence.text or sequence.logprobs:
            self.engine.send(sequence.request, sequence.take(""))

    def _read_tokens(self, sequence: Sequence, last: bool = False) -> None:
        """Slot the tokens that are new into text."""
        slot = sequence.slot
        new = self._tokens[slot, sequence.shown : self._count[slot]].tolist()
        sequence.shown += len(new)
        sequence.show(sequence.pieces.add(b"".join(map(self.engine.tokenizer.token_bytes, new)), last), last)

    def _finish(self, sequence: Sequence, reason: str = "") -> None:
        """Free a sequence's slot and send the last of its text."""
        slot = sequence.slot
        self._read_tokens(sequence, last=True)
        ended = self._count[slot] > 0 and self._newest[slot] == self._end
        reason = reason or ("stop" if ended or sequence.pieces.stopped else "length")
        self._release(slot)
        self.engine.finish(sequence, sequence.take(reason))

    def _release(self, slot: int) -> None:
        """Free `slot`; the last sequence moves into it if nobody waits for it, so that steps stay short."""
        self.load -= 1
        self._texts -= Counter({self._at(slot).request.client: 1})  # Drops zeros.
        self._clear(slot)
        last = next(filter(None, reversed(self._sequences)), None)
        if last is not None and last.slot > slot and not self.engine.has_waiting:
            self._move(last, slot)

    def _move(self, sequence: Sequence, target: int) -> None:
        source = sequence.slot
        self.decoder.copy(source, target, int(self._position[source]))
        self._sampler.move(source, target)
        for array in (self._newest, self._position, self._count, self._limit, self._active, self._streams, self._watched, self._tokens):  # fmt: skip
            array[target] = array[source]
        self._sequences[target], sequence.slot = sequence, target
        self._clear(source)

    def _clear(self, slot: int) -> None:
        """Leave nothing in a slot that a step of the others could stumble over: its position counts as theirs do."""
        self._sequences[slot] = None
        self._active[slot] = False
        self._newest[slot] = self._position[slot] = 0
        self._sampler.stop(slot)


def _cost(rows: slice) -> int:
    """What a step of so many slots takes, in those of a slot; by hand, of the shipped model on 2 cores."""
    return 3 + rows.stop - rows.start


def task_of(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, positions: int, client: str = "") -> Task:
    """A request as a task for all its continuations.

    Raises:
        InputError: the prompt is too long or empty, or a parameter does not fit this model.
    """
    prompt = encode_prompt(text, parameters, tokenizer, positions)
    return Task(
        parameters,
        prompt,
        seed=secrets.randbits(63) if parameters.seed is None else parameters.seed,
        echo=text if parameters.echo else "",
        indices=tuple(range(parameters.n)),
        client=client,
        unseen=_unseen(text, parameters, tokenizer, prompt),
    )


def encode_prompt(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, positions: int) -> list[int]:
    """Token ids of a prompt that fits the model.

    Raises:
        InputError: it is empty where the model needs a word, or too long; or a biased token does not exist.
    """
    room = positions - len(tokenizer.begin)
    size = len(text.encode())
    if size > _MAX_BYTES_A_TOKEN * room:
        if parameters.truncate is None:
            raise InputError(
                f"text_input: {size} bytes; accepted: at most {room} tokens and {_MAX_BYTES_A_TOKEN * room} bytes; "
                "'truncate' keeps the end of a longer prompt"
            )
        # What is cut off here is longer than anything the model could see.
        text = text[-_MAX_BYTES_A_TOKEN * room :]
    tokens = tokenizer.encode(text)
    if parameters.truncate is not None:
        if parameters.truncate > room:
            raise InputError(f"truncate: {parameters.truncate}; accepted: 1 to {room} tokens")
        tokens = tokens[-parameters.truncate :]
    least = max(1 - len(tokenizer.begin), 0)
    if not least <= len(tokens) <= room:
        raise InputError(
            f"text_input: {len(tokens)} tokens; accepted: {least} to {room} tokens; "
            "'truncate' keeps the last tokens of a longer prompt"
        )
    for token in parameters.logit_bias:
        if not 0 <= token < len(tokenizer):
            raise InputError(f"logit_bias: token {token}; accepted: token ids from 0 to {len(tokenizer) - 1}")
    return [*tokenizer.begin, *tokens]


def _unseen(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, prompt: list[int]) -> tuple[int, ...]:
    """Tokens of an echoed text that were cut off before `prompt`, where log-probabilities are wanted."""
    if parameters.truncate is None or parameters.logprobs is None or not parameters.echo:
        return ()
    if len(text) > _MAX_ECHO:
        raise InputError(
            f"text_input: {len(text)} characters; accepted with echo, logprobs and truncate: at most {_MAX_ECHO}"
        )
    tokens = tokenizer.encode(text)
    return tuple(tokens[: len(tokens) - (len(prompt) - len(tokenizer.begin))])


def joined(pieces: Iterable[Piece]) -> str:
    """The text of one continuation's pieces."""
    return "".join(piece.text for piece in pieces)


def engine_of(
    folder: Path, variant: str = "int8", slots: int = 32, workers: int = 0, max_waiting: int = 512
) -> TextEngine:
    """An engine on a version of `language_model`.

    Args:
        folder: the version's.
        variant: precision of the graph.
        slots: sequences that run at once, over all workers.
        workers: 0 for one a core that this process may use.
        max_waiting: sequences that may wait.
    """
    workers = workers or len(os.sched_getaffinity(0))
    share = -(-slots // workers)
    decoders = [Decoder(folder, variant, share) for _ in range(workers)]
    return TextEngine(decoders, load_tokenizer(folder), max_waiting)
