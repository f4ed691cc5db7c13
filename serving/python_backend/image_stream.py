"""What the two iterative image models share: progress records as messages, previews and the last picture.

Jobs of an instance take turns (`fair_share`), and all of them together give way to the models that answer at once; messages
leave from a thread of their own (`background_sender`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from imaging import images
from imaging.provenance import Provenance, file_hash
from reverie.errors import InputError
from serving.parameters import StreamFormat
from serving.python_backend.background_sender import BackgroundSender, encode_preview
from serving.python_backend.base import StreamingModel
from serving.python_backend.fair_share import FairShareScheduler
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Outputs, Send, byte_array
from serving.python_backend.result_files import ResultFiles
from serving.telemetry import definitions
from serving.telemetry.model_metrics import RequestMeasurement
from synthesis import checkpoints, features
from synthesis.progress import NotANumberError, OnProgress, Progress

NICENESS = 10
"""A process of this one gets a tenth of a processor that others want."""
_INTER_OP_THREADS = 16


class IterativeImageModel(StreamingModel):
    """Base of the iterative image models: many jobs may run, one computes at a time.

    Attributes:
        max_seconds: that a job may take, waiting for others included; it then ends with the picture that it has.
        max_pixel_steps: work of one job: its steps, each times the pixels of its size. The parameters of these names in a
            model's configuration say otherwise.
    """

    workers = 6
    max_waiting = 0
    max_seconds = 1800
    max_pixel_steps = 4_000_000_000

    def setup(self) -> None:
        # Several instances may share a GPU: each takes memory as it needs it instead of all at once.
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        # A job that stands still inside a call keeps some of TensorFlow's threads, and the others need some.
        tf.config.threading.set_inter_op_parallelism_threads(_INTER_OP_THREADS)
        give_way_to_other_processes()
        self._scheduler = FairShareScheduler()
        checkpoints.listen(self._scheduler)

    def threads(self) -> int:
        """One for each place: all jobs take turns."""
        return self.admission.total

    def seconds(self, asked: float) -> float:
        """The `max_seconds` of a job that asks for so many, or for none (0).

        Raises:
            InputError: it asks for more than jobs get here.
        """
        limit = self.setting("max_seconds", self.max_seconds)
        if asked > limit:
            raise InputError(f"max_seconds: {asked:g}; accepted by this server: 0 to {limit}; 0 takes {limit}")
        return asked or limit

    def check_work(self, pixel_steps: float, parameters: str) -> None:
        """Refuse a job of more work than one may be.

        Args:
            parameters: those that the work depends on, for the message.

        Raises:
            InputError: with what the job would be, and what is accepted.
        """
        limit = self.setting("max_pixel_steps", self.max_pixel_steps)
        if pixel_steps > limit:
            raise InputError(
                f"{parameters}: together {pixel_steps:.3g} pixel steps (each step times the pixels of its size); accepted by "
                f"this server: at most {limit:.3g}; ask for a smaller picture or fewer steps"
            )

    def stream(
        self,
        optimize: Callable[[OnProgress], np.ndarray],
        parameters: StreamFormat,
        extractor: str,
        photo: images.Picture,
        request: InferenceRequest,
        send: Send,
        zoom: float = 1.0,
    ) -> None:
        """Run `optimize` in turns with the other jobs; see `stream_pictures`.

        Args:
            parameters: of the request; pictures say them.
            extractor: that it looks through, by name.
            photo: that it begins with; pictures keep its transparency and its color space.
            zoom: from one frame to the next.
        """
        packet = self._provenance(parameters, extractor).packet() if parameters.provenance else b""
        files = ResultFiles(photo.alpha, photo.icc_profile, packet, zoom)
        with self._scheduler.job(request.client, request.raise_if_cancelled) as slot:
            request.measurement.begin()
            try:
                counted = self._counted(optimize, request.measurement)
                stream_pictures(counted, parameters, send, slot.yield_slot, files)
            except tf.errors.OpError:
                request.raise_if_cancelled()  # TensorFlow hides what a checkpoint inside a call has raised.
                raise

    def _counted(
        self, optimize: Callable[[OnProgress], np.ndarray], request: RequestMeasurement
    ) -> Callable[[OnProgress], np.ndarray]:
        """`optimize`, whose steps and picture are counted in the metrics; then its last message is made."""
        model = self.args["model_name"]

        def counted(on_progress: OnProgress) -> np.ndarray:
            def step(progress: Progress) -> None:
                definitions.STEPS.labels(model).inc()
                on_progress(progress)

            picture = optimize(step)
            definitions.PIXELS.labels(model).inc(picture.shape[0] * picture.shape[1])
            request.encode(picture.shape[0] * picture.shape[1])
            return picture

        return counted

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


def give_way_to_other_processes() -> None:
    """Lower the priority of this process, whose jobs take minutes, below those that answer in milliseconds."""
    for thread in Path("/proc/self/task").iterdir():  # On Linux each thread has its own; new ones inherit it.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)


def stream_pictures(
    optimize: Callable[[OnProgress], np.ndarray],
    pictures: StreamFormat,
    send: Send,
    after_step: Callable[[], None] = lambda: None,
    files: ResultFiles | None = None,
) -> None:
    """Run `optimize`, sending each progress record and at the end the picture, as `files` makes them.

    A loss that becomes NaN sends the last good picture before its error.
    """
    last = Progress(step=0, steps=0, stage=0, loss=float("nan"), seconds=0.0)

    files, frames = files or ResultFiles(), 0

    def tell(progress: Progress) -> None:
        nonlocal frames
        preview = encode_preview(progress, pictures.preview_size, partial(files.encode, zooms=frames))
        frames = progress.frame or frames
        send(to_outputs(progress, preview, done=False))

    def encoded(picture: np.ndarray, zooms: int) -> bytes:
        return files.encode(picture, pictures.format, zooms=zooms)

    with BackgroundSender(tell) as sender:

        def on_progress(progress: Progress) -> None:
            nonlocal last
            sender.send(progress)
            last = replace(progress, image=None, frame=0)
            after_step()

        try:
            picture = optimize(on_progress)
        except NotANumberError as error:
            sender.flush()
            send(to_outputs(last, encoded(error.image, frames), done=False, shape=error.image.shape))
            raise
    send(to_outputs(last, encoded(picture, max(0, frames - 1)), done=True, shape=picture.shape))


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
