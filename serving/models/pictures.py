"""What the two iterative image models share: progress records as messages, previews and the last picture.

A picture is made small, encoded and sent in a thread of its own, so that a preview hardly delays the
optimisation; jobs of an instance take turns, a step each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from serving.models.requests import Outputs, Send, StreamingModel, byte_array
from serving.models.turns import Turnstile
from synthesis import images
from synthesis.progress import NotANumberError, OnProgress, Progress

PREVIEW_QUALITY = 85
QUEUED_MESSAGES = 4
"""Messages that may wait to be encoded; the optimisation then waits for them rather than fill the memory."""


class PictureFormat(BaseModel):
    """How pictures are sent.

    Attributes:
        format: of the last picture; previews are JPEG. "raw" is the pixels themselves, see the output `shape`.
        preview_size: longer side of a preview at most, in pixels; 0 for the full size.
    """

    format: Literal["png", "jpeg", "webp", "raw"] = "png"
    preview_size: int = Field(default=0, ge=0, le=4096)


class PictureModel(StreamingModel):
    """Base of the iterative image models: many jobs may run, one computes at a time."""

    workers = 8

    def setup(self) -> None:
        self._turnstile = Turnstile()

    def stream(self, optimise: Callable[[OnProgress], np.ndarray], pictures: PictureFormat, send: Send) -> None:
        """Run `optimise` in turns with the other jobs; see `stream_pictures`."""
        with self._turnstile.job() as turn:
            stream_pictures(optimise, pictures, send, turn.pass_on)


def stream_pictures(
    optimise: Callable[[OnProgress], np.ndarray],
    pictures: PictureFormat,
    send: Send,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Run `optimise`, sending each progress record and at the end the picture.

    A loss that becomes NaN sends the last good picture before its error.
    """
    last = Progress(step=0, steps=0, stage=0, loss=float("nan"), seconds=0.0)
    with _Outbox(lambda progress: send(to_outputs(progress, _preview(progress, pictures), done=False))) as outbox:

        def on_progress(progress: Progress) -> None:
            nonlocal last
            outbox.put(progress)
            last = replace(progress, image=None, frame=0)
            after_step()

        try:
            picture = optimise(on_progress)
        except NotANumberError as error:
            outbox.drain()
            send(to_outputs(last, _encoded(error.image, pictures.format), done=False, shape=error.image.shape))
            raise
    send(to_outputs(last, _encoded(picture, pictures.format), done=True, shape=picture.shape))


class _Outbox:
    """Sends messages in order from a thread of its own; a failure there is raised at the next message."""

    def __init__(self, send: Callable[[Progress], None]):
        self._send = send
        self._thread = ThreadPoolExecutor(1)
        self._sent: list[Future[None]] = []

    def __enter__(self) -> _Outbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whoever ends the stream must be the last to speak: nothing may be sent after its final response.
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.drain()

    def put(self, progress: Progress) -> None:
        """Send a record soon; raises what an earlier one failed with, `Cancelled` for example."""
        while self._sent and (self._sent[0].done() or len(self._sent) >= QUEUED_MESSAGES):
            self._sent.pop(0).result()
        self._sent.append(self._thread.submit(self._send, progress))

    def drain(self) -> None:
        """Wait until all is sent."""
        while self._sent:
            self._sent.pop(0).result()


def to_outputs(progress: Progress, image: bytes, done: bool, shape: tuple[int, ...] = (0, 0, 3)) -> Outputs:
    """A progress record as output tensors of one element each, but `shape`: height, width, 3 of the last picture."""
    return {
        "step": np.array([progress.step], np.int32),
        "steps": np.array([progress.steps], np.int32),
        "stage": np.array([progress.stage], np.int32),
        "loss": np.array([progress.loss], np.float32),
        "loss_parts": byte_array(json.dumps(dict(progress.parts)).encode()),
        "seconds": np.array([progress.seconds], np.float32),
        "image": byte_array(image),
        "shape": np.array(shape, np.int32),
        "frame": np.array([progress.frame], np.int32),
        "stopped": byte_array(progress.stopped.encode()),
        "done": np.array([done]),
    }


def _preview(progress: Progress, pictures: PictureFormat) -> bytes:
    if progress.image is None:
        return b""
    is_small = pictures.preview_size and not progress.frame
    image = images.fit_within(progress.image, pictures.preview_size) if is_small else progress.image
    return images.encode(image, "jpeg", PREVIEW_QUALITY)


def _encoded(image: np.ndarray, format: str) -> bytes:
    return image.tobytes() if format == "raw" else images.encode(image, format)
