"""What a caller asks of the text engine, what it gets, and how far its request is. Knows nothing about decoders."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from language.sampling import Logprobs
from reverie.errors import Unavailable
from serving.python_backend.admission import Reservation
from serving.text.parameters import GenerateParameters

log = logging.getLogger("reverie")


CANCELLED = "cancelled"
"""The reason that a text ended which nobody wanted any more."""


class QueueFull(Unavailable):
    """As many sequences are waiting as may."""


class EngineLost(Unavailable):
    """The process that wrote a text has ended."""


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
class TextDelta:
    """New text of one continuation.

    Attributes:
        index: which of the request's `n` continuations.
        finish_reason: "stop", "length" or `CANCELLED` in a continuation's last delta, else "".
        logprobs: of the tokens in it, where asked for.
        tokens: generated since the one before.
    """

    index: int
    text: str
    finish_reason: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    tokens: int = field(default=0, compare=False)


Update = tuple[int, TextDelta | BaseException | None, bool]
"""What an engine says of a continuation: its number, what is new of it if anything, and whether it has ended."""


def joined(deltas: Iterable[TextDelta]) -> str:
    """The text of one continuation's deltas."""
    return "".join(delta.text for delta in deltas)


@dataclass(frozen=True)
class Task:
    """One continuation of a checked prompt, as an engine in any process can take it.

    Attributes:
        prompt: token ids.
        echo: text to put in front.
        index: which of the request's `n` continuations.
        client: whose it is; "" is all who have no name.
        unseen: tokens of `echo` before those of the prompt.
    """

    parameters: GenerateParameters
    prompt: list[int]
    seed: int
    echo: str
    index: int = 0
    client: str = ""
    unseen: tuple[int, ...] = ()


class Sink(Protocol):
    """Where a request's text goes; called from the pool's threads."""

    def send(self, deltas: list[TextDelta], last: bool) -> None:
        """Take new deltas; `last` says that none will follow."""

    def fail(self, error: BaseException) -> None:
        """Take an error instead of further deltas."""

    def cancelled(self) -> bool:
        """Whether nobody wants the text any more."""

    def begin(self) -> None:
        """Its first continuation has left the queue."""


class Collector:
    """A sink for a caller in this process that waits for the whole text."""

    def __init__(self) -> None:
        self._deltas: list[TextDelta] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def send(self, deltas: list[TextDelta], last: bool) -> None:
        self._deltas += deltas
        if last:
            self._ended.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()

    def cancelled(self) -> bool:
        return False

    def begin(self) -> None:
        """Nobody asks how long it waited."""

    def deltas(self) -> list[TextDelta]:
        """All deltas, once the last has come; raises what the request failed with."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._deltas


@dataclass(eq=False)
class TextRequest:
    """A caller's prompt and how far its `n` continuations are; guarded by the pool's lock, but for `deliver`.

    Attributes:
        task: what its continuations have in common.
        place, continuations: what it holds of the pool's two admissions.
        waiting: indices of the continuations that no process has.
        running: how many a process has.
        whole: finished continuations of a caller that does not stream.
        cancelled: nobody wants it any more.
        closed: its last message was, or is just being, sent.
    """

    sink: Sink
    task: Task
    place: Reservation
    continuations: Reservation
    waiting: deque[int]
    running: int = 0
    whole: list[TextDelta] = field(default_factory=list)
    cancelled: bool = False
    closed: bool = False

    def next_task(self) -> Task:
        """The next continuation that waits; from now on it runs."""
        if len(self.waiting) == self.task.parameters.n:
            self.sink.begin()
        self.running += 1
        return replace(self.task, index=self.waiting.popleft())

    def end_one(self) -> None:
        """A process has ended a continuation."""
        self.running -= 1
        self.continuations.release(1)

    def cancel(self) -> None:
        """Nobody wants it any more: what waits is forgotten, what runs will still be heard of."""
        self.cancelled = True
        self.waiting.clear()

    def close_if(self, failed: bool = False) -> bool:
        """Close it if it has failed or nothing of it is left; returns whether this message is its last."""
        self.closed = self.closed or failed or not (self.running or self.waiting)
        if self.closed:
            self.continuations.release()
            self.place.release()
        return self.closed

    def deliver(self, content: TextDelta | BaseException | None, last: bool) -> None:
        """Hand the caller what is new: at once where it streams, otherwise all together, ordered, at the end."""
        deltas = [content] if isinstance(content, TextDelta) else []
        try:
            if isinstance(content, BaseException):
                self.sink.fail(content)
            elif self.task.parameters.stream:
                self.sink.send(deltas, last)
            else:
                self.whole += deltas
                if last:
                    self.sink.send(sorted(self.whole, key=lambda delta: delta.index), True)
        except Exception:
            log.exception("a caller could not be answered")

    @property
    def has_gone(self) -> bool:
        """Whether its caller has left; one that cannot be asked counts as gone."""
        try:
            return self.sink.cancelled()
        except Exception:
            log.exception("a caller could not be asked whether it is still there")
            return True
