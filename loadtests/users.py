"""Who calls the service: one locust user class an endpoint, weighted to a plausible mix.

Mostly short requests (text, fast styles) and a few minutes-long ones cut down to seconds. Also works
as a locustfile: `locust -f loadtests/users.py --host 127.0.0.1:8001`.

gRPC under gevent hands a stream's messages over a little later than under threads: on 2 busy cores about
10 ms in the median and 50 ms at p90, which times to the first message include. In the times of whole requests
the difference is lost in the noise.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import ClassVar

# First: it replaces blocking calls (sockets, threads, time.sleep) by gevent's.
from locust import User, between, task  # isort: skip

import grpc.experimental.gevent
import numpy as np

from serving.client import Client, PictureStep, TextPiece
from synthesis import images

# Before any channel exists, else a waiting call stops every user.
grpc.experimental.gevent.init_gevent()

TIMEOUT_S = 60.0
"""Deadline of a request under load; a later answer counts as a failure."""

PROMPTS = (
    "this movie",
    "i have seen",
    "the acting was",
    "one of the worst films",
    "what a wonderful",
    "the director of this film",
    "if you like horror movies",
    "my wife and i watched",
)

Answer = bytes | TextPiece | PictureStep


def picture(height: int, width: int, seed: int) -> bytes:
    """A JPEG of soft coloured blotches: the size and detail of a small photograph, without a file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return images.encode(images.resize(coarse, height, width), "jpeg")


PHOTOS = tuple(picture(192, 256, seed) for seed in range(4))
PAINTING = picture(96, 96, seed=100)


class BadAnswer(Exception):
    """The service answered, but not with what was asked for."""


class ReverieUser(User):
    """Calls one endpoint again and again, and reports each call to locust.

    Attributes:
        endpoint: its name in statistics and objectives.
        is_streaming: whether the time to the first message is recorded too.
    """

    abstract = True
    wait_time = between(0.1, 0.5)
    endpoint: ClassVar[str]
    is_streaming: ClassVar[bool] = True
    _numbers = itertools.count()

    @staticmethod
    def request(client: Client, rng: random.Random) -> Iterator[Answer]:
        """Send one request, varied by `rng`, and pass on its messages."""
        raise NotImplementedError

    def on_start(self) -> None:
        self._client = Client(self.host, timeout=TIMEOUT_S)
        self._rng = random.Random(next(self._numbers))

    def on_stop(self) -> None:
        self._client.close()

    @task
    def call(self) -> None:
        """One request, measured; whatever goes wrong is this request's failure."""
        started, first_ms, failure = time.perf_counter(), None, None
        try:
            for _ in checked(self.request(self._client, self._rng)):
                first_ms = first_ms or _milliseconds_since(started)
        except Exception as error:
            failure = error
        total_ms = _milliseconds_since(started)
        if self.is_streaming and first_ms is not None:
            self._report(first_message(self.endpoint), first_ms)
        self._report(self.endpoint, total_ms, failure)

    def _report(self, name: str, milliseconds: float, failure: Exception | None = None) -> None:
        # ReverieError's text begins with its gRPC status, so statistics tell failures apart by status.
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=failure,
            context={},
        )


class GenerateUser(ReverieUser):
    """Has a review continued by 20 words."""

    weight = 3
    endpoint = "generate"

    @staticmethod
    def request(client: Client, rng: random.Random) -> Iterator[Answer]:
        prompt, seed = rng.choice(PROMPTS), rng.randrange(2**31)
        with client.generate(prompt, max_tokens=20, temperature=0.7, seed=seed) as stream:
            yield from stream


class StylizeUser(ReverieUser):
    """Has a small photograph restyled by the fast network."""

    weight = 3
    endpoint = "stylize"
    is_streaming = False

    @staticmethod
    def request(client: Client, rng: random.Random) -> Iterator[Answer]:
        yield client.stylize(rng.choice(PHOTOS), format="jpeg")


class DeepDreamUser(ReverieUser):
    """Dreams briefly on a small picture; `max_loss` 0 makes every dream equally long."""

    weight = 1
    wait_time = between(1.0, 3.0)
    endpoint = "deepdream"

    @staticmethod
    def request(client: Client, rng: random.Random) -> Iterator[Answer]:
        photo = rng.choice(PHOTOS)
        with client.dream(photo, size=160, num_octave=1, iterations=4, max_loss=0.0, format="jpeg") as stream:
            yield from stream


class StyleTransferUser(ReverieUser):
    """Has a small picture painted in the style of another, in very few steps."""

    weight = 1
    wait_time = between(1.0, 3.0)
    endpoint = "style_transfer"

    @staticmethod
    def request(client: Client, rng: random.Random) -> Iterator[Answer]:
        with client.transfer(rng.choice(PHOTOS), PAINTING, size=96, steps=3, format="jpeg") as stream:
            yield from stream


USERS: tuple[type[ReverieUser], ...] = (GenerateUser, StylizeUser, DeepDreamUser, StyleTransferUser)


def checked(messages: Iterator[Answer]) -> Iterator[Answer]:
    """Pass on `messages`.

    Raises:
        BadAnswer: they end without the last one: a finish reason, or a whole picture.
    """
    last: Answer | None = None
    for last in messages:
        yield last
    if not _is_final(last):
        raise BadAnswer("the answer ended before its last message")


def first_message(endpoint: str) -> str:
    """The name under which times to the first message are recorded."""
    return f"{endpoint} first message"


def recorded_names() -> list[str]:
    """Every name that a load test records, an endpoint's first message after it."""
    pairs = [[u.endpoint, first_message(u.endpoint)] if u.is_streaming else [u.endpoint] for u in USERS]
    return list(itertools.chain.from_iterable(pairs))


def _is_final(message: Answer | None) -> bool:
    if isinstance(message, TextPiece):
        return bool(message.finish_reason)
    return (message.done and bool(message.image)) if isinstance(message, PictureStep) else bool(message)


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
