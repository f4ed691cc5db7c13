"""What calls return: dataclasses, and how they are read from a response's arrays. Knows nothing of connections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie_client.token_text import to_bytes as token_bytes

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TextDelta:
    """A piece of a continuation.

    Attributes:
        text: what comes after the pieces before.
        finish_reason: "stop", "length" or "cancelled" in a continuation's last piece, else empty.
        index: which of `n` continuations.
        logprobs: where asked for, OpenAI's `tokens`, `token_logprobs` and `top_logprobs` of this piece.
    """

    text: str
    finish_reason: str
    index: int = 0
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Score:
    """How probable a text is.

    Attributes:
        logprob: natural logarithm of the text's probability.
        tokens: the scored tokens; a word model gives the first word no probability.
        token_logprobs: of each of them, given those before it.
        request_id: by which the server's logs know the request.
    """

    logprob: float
    tokens: list[bytes]
    token_logprobs: list[float]
    request_id: str = field(default="", compare=False)


@dataclass(frozen=True)
class PictureStep:
    """A step of a dream or a transfer.

    Attributes:
        step, steps, stage, loss, seconds: where the optimization is.
        image: an encoded preview or frame, or with `done` the result; empty where none was due.
        done: this is the result.
        loss_parts: what the loss is the sum of, by name.
        shape: height, width and 3 of the result, for `format="raw"`: uint8 pixels, row by row.
        frame: above 0 where `image` is this finished frame of a zoom sequence.
        exact: the loss is the whole objective in float32; where not, an estimate in faster arithmetic.
        stopped: "max_seconds" where the time was up and the picture is the best so far, else "".
    """

    step: int
    steps: int
    stage: int
    loss: float
    seconds: float
    image: bytes
    done: bool
    loss_parts: dict[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    frame: int = 0
    stopped: str = ""
    exact: bool = True


@dataclass(frozen=True)
class ModelStatus:
    """A version of a model in the repository and its state ("READY", "UNAVAILABLE", ...)."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class Inference:
    """An answer: output arrays by name, the version of the model that computed them, and the request's id in logs."""

    outputs: dict[str, np.ndarray]
    version: str
    request_id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Health:
    """How a server is.

    Attributes:
        live: it answers.
        ready: it has all its models.
    """

    live: bool
    ready: bool


def to_text_deltas(arrays: Arrays) -> list[TextDelta]:
    """A message of `generate`: one piece for each continuation that it speaks of."""
    logprobs = arrays.get("logprobs", np.array([b""] * len(arrays["index"]), np.object_))
    columns = zip(arrays["text_output"], arrays["finish_reason"], arrays["index"], logprobs)
    return [
        TextDelta(text.decode(), reason.decode(), int(index), json.loads(found) if found else None)
        for text, reason, index, found in columns
    ]


def to_picture_steps(arrays: Arrays) -> list[PictureStep]:
    """A message of `deepdream` or `style_transfer`: one step."""
    values: dict[str, Any] = {name: array.item() for name, array in arrays.items() if name != "shape"}
    values["shape"] = tuple(arrays["shape"].tolist())
    values["loss_parts"] = json.loads(values["loss_parts"])
    values["stopped"] = values["stopped"].decode()
    return [PictureStep(**values)]


def to_score(answer: Inference) -> Score:
    """The answer of `score`."""
    outputs = answer.outputs
    tokens = [token_bytes(token.decode()) for token in outputs["tokens"]]
    return Score(outputs["logprob"].item(), tokens, outputs["token_logprobs"].tolist(), answer.request_id)
