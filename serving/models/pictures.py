"""What the two iterative image models share: progress records as messages, previews and the last picture.

Jobs of an instance take turns, a step each (`turns`); messages leave from a thread of their own (`outbox`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import tensorflow as tf
from pydantic import BaseModel, Field

from serving.models.outbox import Outbox, encode_preview
from serving.models.requests import Outputs, Send, StreamingModel, byte_array
from serving.models.turns import Turnstile
from synthesis import features, images
from synthesis.progress import NotANumberError, OnProgress, Progress
from synthesis.provenance import Provenance, file_hash


class StreamFormat(BaseModel):
    """How the pictures of a stream are sent.

    Attributes:
        format: of the last picture; previews are JPEG. "raw" is the pixels themselves, see the output `shape`.
        preview_size: longer side of a preview at most, in pixels; 0 for the full size.
        provenance: pictures say in their XMP how they were made; raw ones have none.
    """

    format: Literal["png", "jpeg", "webp", "raw"] = "png"
    preview_size: int = Field(default=0, ge=0, le=4096)
    provenance: bool = True


class PictureModel(StreamingModel):
    """Base of the iterative image models: many jobs may run, one computes at a time."""

    workers = 8
    max_waiting = 2

    def setup(self) -> None:
        # Several instances may share a GPU: each takes memory as it needs it instead of all at once.
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        self._turnstile = Turnstile()

    def stream(
        self, optimise: Callable[[OnProgress], np.ndarray], parameters: StreamFormat, extractor: str, send: Send
    ) -> None:
        """Run `optimise` in turns with the other jobs; see `stream_pictures`.

        Args:
            parameters: of the request; pictures say them.
            extractor: that it looks through, by name.
        """
        packet = self._provenance(parameters, extractor).packet() if parameters.provenance else b""
        with self._turnstile.job() as turn:
            stream_pictures(optimise, parameters, send, turn.pass_on, packet)

    def _provenance(self, parameters: StreamFormat, extractor: str) -> Provenance:
        said, weights = parameters.model_dump(), features.weights_path(extractor)
        return Provenance(
            model=self.args["model_name"],
            version=self.args["model_version"],
            features=extractor,
            features_sha256=file_hash(weights) if weights else "",
            seed=str(said["seed"]),
            parameters=said,
        )


def stream_pictures(
    optimise: Callable[[OnProgress], np.ndarray],
    pictures: StreamFormat,
    send: Send,
    after_step: Callable[[], None] = lambda: None,
    packet: bytes = b"",
) -> None:
    """Run `optimise`, sending each progress record and at the end the picture, all pictures with the XMP `packet`.

    A loss that becomes NaN sends the last good picture before its error.
    """
    last = Progress(step=0, steps=0, stage=0, loss=float("nan"), seconds=0.0)

    def tell(progress: Progress) -> None:
        send(to_outputs(progress, encode_preview(progress, pictures.preview_size, packet), done=False))

    with Outbox(tell) as outbox:

        def on_progress(progress: Progress) -> None:
            nonlocal last
            outbox.put(progress)
            last = replace(progress, image=None, frame=0)
            after_step()

        try:
            picture = optimise(on_progress)
        except NotANumberError as error:
            outbox.drain()
            send(to_outputs(last, _encoded(error.image, pictures.format, packet), done=False, shape=error.image.shape))
            raise
    send(to_outputs(last, _encoded(picture, pictures.format, packet), done=True, shape=picture.shape))


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
        "exact": np.array([progress.exact]),
        "stopped": byte_array(progress.stopped.encode()),
        "done": np.array([done]),
    }


def _encoded(image: np.ndarray, format: str, packet: bytes) -> bytes:
    return image.tobytes() if format == "raw" else images.encode(image, format, packet=packet)
