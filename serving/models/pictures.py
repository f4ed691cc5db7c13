"""What the two iterative image models share: progress records as messages, previews and the last picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import BaseModel

from serving.models.requests import Outputs, Send, byte_array
from synthesis import images
from synthesis.progress import NotANumberError, OnProgress, Progress

PREVIEW_QUALITY = 85


class PictureFormat(BaseModel):
    """How the last picture is encoded; previews are JPEG."""

    format: Literal["png", "jpeg", "webp"] = "png"


def stream_pictures(optimise: Callable[[OnProgress], np.ndarray], format: str, send: Send) -> None:
    """Run `optimise`, sending each progress record and at the end the picture.

    A loss that becomes NaN sends the last good picture before its error.
    """
    last = Progress(step=0, steps=0, stage=0, loss=float("nan"), seconds=0.0)

    def on_progress(progress: Progress) -> None:
        nonlocal last
        last = progress
        preview = b"" if progress.image is None else images.encode(progress.image, "jpeg", PREVIEW_QUALITY)
        send(to_outputs(progress, preview, done=False))

    try:
        picture = optimise(on_progress)
    except NotANumberError as error:
        send(to_outputs(last, images.encode(error.image, format), done=False))
        raise
    send(to_outputs(last, images.encode(picture, format), done=True))


def to_outputs(progress: Progress, image: bytes, done: bool) -> Outputs:
    """A progress record as output tensors of one element each."""
    return {
        "step": np.array([progress.step], np.int32),
        "steps": np.array([progress.steps], np.int32),
        "stage": np.array([progress.stage], np.int32),
        "loss": np.array([progress.loss], np.float32),
        "seconds": np.array([progress.seconds], np.float32),
        "image": byte_array(image),
        "done": np.array([done]),
    }
