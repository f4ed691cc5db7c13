"""One request of a load test: made, timed and recorded; knows nothing of locust, schedules or objectives."""

from __future__ import annotations

import io
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from PIL import Image
from reverie_client import PictureStep, Score, TextDelta

from loadtests.endpoints import Caller, Endpoint, Message
from reverie.errors import ToolkitError

REFUSALS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""Statuses by which a server says that it is busy; an unreachable server's is UNAVAILABLE too."""
DROPPED = "DROPPED: as many requests as allowed were in flight"


class BadAnswer(ToolkitError):
    """The service answered, but not with what was asked for."""


class Outcome(Enum):
    """What became of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Call:
    """One request and what came of it. Times are in seconds of one clock, whose zero is the load's beginning.

    Attributes:
        endpoint: its name.
        scheduled_s: when it was due; in a closed loop, when it was sent.
        started_s: when it was sent.
        finished_s: when its last message, or its failure, arrived.
        message_s: when each message arrived.
        received_bytes: payload of all messages: text, encoded pictures, tensors.
        pixels: of the resulting picture; 0 for text.
        error: why it failed, beginning with its gRPC status where it has one; empty if it did not.
        seed: what it asked for was drawn from this, so that it can be asked again.
    """

    endpoint: str
    scheduled_s: float
    started_s: float
    finished_s: float
    message_s: tuple[float, ...] = ()
    received_bytes: int = 0
    pixels: int = 0
    error: str = ""
    seed: int = 0

    @property
    def outcome(self) -> Outcome:
        if not self.error:
            return Outcome.ANSWERED
        if self.error == DROPPED:
            return Outcome.DROPPED
        return Outcome.REFUSED if self.error.startswith(REFUSALS) else Outcome.FAILED

    @property
    def status(self) -> str:
        """gRPC's name of how it ended, or the error's first word."""
        return self.error.partition(":")[0] or "OK"

    @property
    def milliseconds(self) -> float:
        """From the *scheduled* time to the end: a stalled server cannot hide behind a late sender."""
        return (self.finished_s - self.scheduled_s) * 1000

    @property
    def lag_ms(self) -> float:
        """How late it was sent."""
        return (self.started_s - self.scheduled_s) * 1000

    @property
    def first_message_ms(self) -> float | None:
        return (self.message_s[0] - self.scheduled_s) * 1000 if self.message_s else None

    @property
    def between_messages_ms(self) -> list[float]:
        """From each message to the next."""
        return [(b - a) * 1000 for a, b in itertools.pairwise(self.message_s)]

    def since(self, began: float) -> Call:
        """The same call with `began` as the clock's zero."""
        return replace(
            self,
            scheduled_s=self.scheduled_s - began,
            started_s=self.started_s - began,
            finished_s=self.finished_s - began,
            message_s=tuple(at - began for at in self.message_s),
        )


def make_call(
    endpoint: Endpoint,
    client: Caller,
    seed: int,
    scheduled_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Call:
    """Send one request, varied by `seed`, and wait for all of its answer; whatever goes wrong is the call's error."""
    started, arrived, received, error = clock(), [], 0, ""
    message: Message | None = None
    try:
        for message in checked(endpoint.request(client, random.Random(seed))):
            arrived.append(clock())
            received += _size(message)
    except Exception as failure:
        # ReverieError's text begins with its gRPC status, so failures can be told apart by status.
        error = str(failure) or type(failure).__name__
    finished = clock()
    due = started if scheduled_s is None else scheduled_s
    pixels = 0 if error or message is None else _pixels(message)
    return Call(endpoint.name, due, started, finished, tuple(arrived), received, pixels, error, seed)


def dropped_call(endpoint: str, scheduled_s: float, seed: int) -> Call:
    """A request that was due and not sent, because too many were in flight."""
    return Call(endpoint, scheduled_s, scheduled_s, scheduled_s, error=DROPPED, seed=seed)


def checked(messages: Iterable[Message]) -> Iterator[Message]:
    """Pass on `messages`.

    Raises:
        BadAnswer: they end without the last one: a finish reason, a whole picture, a score.
    """
    last: Message | None = None
    for last in messages:
        yield last
    if not _is_final(last):
        raise BadAnswer("the answer ended before its last message")


def _is_final(message: Message | None) -> bool:
    if isinstance(message, TextDelta):
        return bool(message.finish_reason)
    if isinstance(message, PictureStep):
        return message.done and bool(message.image)
    if isinstance(message, Score):
        return bool(message.tokens)
    return message is not None and len(message) > 0


def _size(message: Message) -> int:
    if isinstance(message, TextDelta):
        return len(message.text.encode())
    if isinstance(message, PictureStep):
        return len(message.image)
    if isinstance(message, Score):
        return sum(map(len, message.tokens)) + 4 * len(message.token_logprobs)
    return message.nbytes if isinstance(message, np.ndarray) else len(message)


def _pixels(message: Message) -> int:
    """Width times height; of a file, its header is enough."""
    if isinstance(message, np.ndarray):
        return message.shape[-3] * message.shape[-2]
    data = message.image if isinstance(message, PictureStep) else message
    if not isinstance(data, bytes):
        return 0
    width, height = Image.open(io.BytesIO(data)).size
    return width * height
