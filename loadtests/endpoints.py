"""What is asked of each endpoint: seeded mixes of prompts and picture sizes; knows nothing of when or how often.

Mostly short requests (text, fast styles) and a few minutes-long ones cut down to seconds.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from reverie_client import Client, PictureStep, Score, TextDelta
from tritonclient.grpc import service_pb2

from imaging import images

OPENINGS = (
    "this movie",
    "i have seen",
    "the acting was",
    "one of the worst films",
    "what a wonderful",
    "the director of this film",
    "if you like horror movies",
    "my wife and i watched",
    "there is a scene in the middle of the film where",
    "after the first half hour nothing much happens and",
    "i was ten years old when i first saw it on television and",
    "the only reason to sit through all of it is the music which",
)
CLOSINGS = (
    "and i would watch it again.",
    "but the story makes no sense at all.",
    "with a cast that deserved a better script and a camera that never rests.",
    "because nobody in it behaves like a person one has ever met.",
    "so rent it on a rainy evening and expect nothing.",
)
SIZES = ((192, 256), (256, 256), (384, 512))
"""Height and width of the pictures in pixels; the first are the commonest."""
SIZE_WEIGHTS = (6, 3, 1)
_VARIANTS = 3

Message = bytes | np.ndarray | TextDelta | PictureStep | Score


class Caller(Client):
    """The client, and what only a load test asks of it: the ONNX model `style`, with tensors.

    It sends nothing twice: a load test counts what is refused.
    """

    def __init__(self, address: str, timeout: float):
        super().__init__(address, timeout, retry=None)

    def __enter__(self) -> Caller:
        return self

    def style(self, image: np.ndarray) -> np.ndarray:
        """Restyle a uint8 (height, width, 3) image in some style; the answer is of the same kind."""
        return self.infer("style", {"image": image[None], **self._first_style}).outputs["stylized"][0]

    @functools.cached_property
    def _first_style(self) -> dict[str, np.ndarray]:
        """What the served network takes beside the picture, with its first number set: a weight, or part of a vector."""
        metadata = self.admin.call("ModelMetadata", service_pb2.ModelMetadataRequest(name="style"))
        taken = next(i for i in metadata.inputs if i.name != "image")
        return {taken.name: np.eye(1, taken.shape[-1], dtype=np.float32)}


@dataclass(frozen=True)
class Endpoint:
    """One endpoint under load.

    Attributes:
        name: in statistics and objectives; the model that is called.
        request: sends one request, varied by a random number generator, and passes on its messages.
        weight: its share in the mix.
        pause_s: shortest and longest wait of a user of it between an answer and the next request.
        is_streaming: whether an answer is several messages.
    """

    name: str
    request: Callable[[Caller, random.Random], Iterator[Message]]
    weight: float
    pause_s: tuple[float, float] = (0.1, 0.5)
    is_streaming: bool = False


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Soft colored blotches, uint8 (height, width, 3): the size and detail of a small photograph, without a file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return images.resize(coarse, height, width)


@functools.cache
def _pixels(size: int, variant: int) -> np.ndarray:
    return photograph(*SIZES[size], seed=variant)


@functools.cache
def _file(size: int, variant: int) -> bytes:
    return images.encode(_pixels(size, variant), "jpeg")


@functools.cache
def painting() -> bytes:
    """What the made pictures are painted in the style of, as a JPEG file."""
    return images.encode(photograph(96, 96, seed=100), "jpeg")


def draw_file(rng: random.Random) -> bytes:
    """One of the made pictures, as a JPEG file."""
    return _file(*_choose_picture(rng))


def draw_pixels(rng: random.Random) -> np.ndarray:
    """One of the made pictures, uint8 (height, width, 3)."""
    return _pixels(*_choose_picture(rng))


def _choose_picture(rng: random.Random) -> tuple[int, int]:
    return rng.choices(range(len(SIZES)), SIZE_WEIGHTS)[0], rng.randrange(_VARIANTS)


def draw_sentences(rng: random.Random) -> str:
    """One to six sentences of a review."""
    sentences = [f"{rng.choice(OPENINGS)} {rng.choice(CLOSINGS)}" for _ in range(rng.randint(1, 6))]
    return " ".join(sentences)


def _generate(client: Caller, rng: random.Random) -> Iterator[Message]:
    """A review continued, mostly by a sentence and now and then by a paragraph."""
    words = rng.choices((10, 20, 60), (3, 6, 1))[0]
    with client.generate(rng.choice(OPENINGS), max_tokens=words, temperature=0.7, seed=rng.randrange(2**31)) as stream:
        yield from stream


def _score(client: Caller, rng: random.Random) -> Iterator[Message]:
    """How probable one to six sentences are."""
    yield client.score(draw_sentences(rng))


def _stylize(client: Caller, rng: random.Random) -> Iterator[Message]:
    """A photograph restyled by the fast network."""
    yield client.stylize(draw_file(rng), format="jpeg")


def _style(client: Caller, rng: random.Random) -> Iterator[Message]:
    """The same without files: pixels in, pixels out."""
    yield client.style(draw_pixels(rng))


_SHORT_DREAM: dict[str, Any] = {
    "recipe": "book", "size": 160, "num_octave": 1, "iterations": 4, "max_loss": 0.0, "format": "jpeg",
}  # fmt: skip
"""`max_loss` 0 makes every dream equally long."""


def _dream(client: Caller, rng: random.Random) -> Iterator[Message]:
    """A short dream on a small picture."""
    photo = draw_file(rng)
    with client.dream(photo, **_SHORT_DREAM) as stream:
        yield from stream


def _transfer(client: Caller, rng: random.Random) -> Iterator[Message]:
    """A small picture painted in the style of another, in very few steps."""
    with client.transfer(draw_file(rng), painting(), size=96, steps=3, format="jpeg") as stream:
        yield from stream


GENERATE = Endpoint("generate", _generate, weight=6, is_streaming=True)
SCORE = Endpoint("score", _score, weight=4)
STYLIZE = Endpoint("stylize", _stylize, weight=6)
STYLE = Endpoint("style", _style, weight=2)
DEEPDREAM = Endpoint("deepdream", _dream, weight=1, pause_s=(1.0, 3.0), is_streaming=True)
STYLE_TRANSFER = Endpoint("style_transfer", _transfer, weight=1, pause_s=(1.0, 3.0), is_streaming=True)

ENDPOINTS = {e.name: e for e in (GENERATE, SCORE, STYLIZE, STYLE, DEEPDREAM, STYLE_TRANSFER)}


def make_pictures() -> None:
    """Make every picture of the mix now, so that none is made while times are taken."""
    for size, variant in itertools.product(range(len(SIZES)), range(_VARIANTS)):
        _file(size, variant)
    painting()


def first_message(endpoint: str) -> str:
    """The name of the times from a request to its first message."""
    return f"{endpoint} first message"


def between_messages(endpoint: str) -> str:
    """The name of the times from one message to the next."""
    return f"{endpoint} between messages"


def recorded_names(endpoints: Collection[str] = tuple(ENDPOINTS)) -> list[str]:
    """Every name that is measured: each of `endpoints`, and after it what is measured of its streams."""
    return [
        name
        for e in ENDPOINTS.values()
        if e.name in endpoints
        for name in (e.name, *((first_message(e.name), between_messages(e.name)) if e.is_streaming else ()))
    ]
