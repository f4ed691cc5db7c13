"""Teach the compact extractor what VGG19 sees: `reverie train features`.

Each layer is regressed on the teacher's (hints, Romero et al. 2015), and so are the Gram matrices that
the style loss compares. Half of each batch are photographs, augmented with noise and contrast. The other half
are pictures that an optimization makes through the student (see `training.features.paintings`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from synthesis import compact, features
from synthesis.losses import gram_matrix, relative_error
from training import loop
from training.features.paintings import InitialImage, OptimizationPool
from training.photos import Photos
from training.runs import Run

KIND = "features"


@dataclass(frozen=True)
class FeaturesTraining:
    """What a run is asked to do.

    Attributes:
        batch_size: pictures in a batch, half of them photographs; `size`: their side in pixels.
        gram_weight: of the Gram matrices' error beside that of the activations.
    """

    steps: int = 5000
    batch_size: int = 8
    size: int = 96
    learning_rate: float = 2e-3
    gram_weight: float = 0.5
    precision: str = "float32"
    seed: int = 1


class Distiller(keras.Model):
    """The student with a loss that asks the teacher; inputs are images, targets are not used."""

    def __init__(self, student: keras.Model, teacher, gram_weight: float):
        super().__init__()
        self.student = student
        self.gram_weight = gram_weight
        # A closure: the teacher's variables are neither trained nor checkpointed.
        self.ask_teacher = lambda image: teacher(image)

    def call(self, image):
        return self.student(image / 127.5 - 1.0)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        hints = self.ask_teacher(x)
        losses = [self._layer_loss(s, ops.stop_gradient(t)) for s, t in zip(y_pred, hints, strict=True)]
        return sum(losses) / len(losses)

    def _layer_loss(self, student, teacher):
        student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
        activations = relative_error(student, teacher, axis=(1, 2, 3))
        grams = relative_error(gram_matrix(student), gram_matrix(teacher), axis=(1, 2))
        return ops.mean(activations + self.gram_weight * grams)


def augmented(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change contrast and add noise of a random strength to each crop, pixels kept in [0, 255]."""
    count = (len(crops), 1, 1, 1)
    contrast, noise = rng.uniform(0.6, 1.5, count), rng.uniform(0, 40, count) * (rng.random(count) < 0.5)
    blobs = rng.standard_normal(crops.shape, dtype=np.float32)
    return np.clip((crops - 127.5) * contrast + 127.5 + noise * blobs, 0, 255).astype(np.float32)


def initial_images(photos: Photos, paintings: Photos, config: FeaturesTraining) -> Callable[[int], InitialImage]:
    """Return a function from the number of an optimization to what it starts from.

    Styles are paintings (where there are any) and photographs in turn; every fourth picture starts as noise.
    """

    def begin(number: int) -> InitialImage:
        rng = np.random.default_rng((config.seed, number, 2))
        content, style = augmented(photos.crops(number, 2, config.size, config.seed + 1), rng)
        if paintings.paths and number % 2:
            (style,) = paintings.crops(number, 1, config.size, config.seed + 1)
        first = rng.uniform(0, 255, content.shape).astype(np.float32) if number % 4 == 3 else content
        return InitialImage(content, style, first)

    return begin


def train(
    config: FeaturesTraining, photos: Photos, paintings: Photos, path: Path | None, schedule: loop.Schedule
) -> Run:
    """Train or resume a run; writes `compact.npz` into its folder and the relative error on held-out photos.

    Args:
        paintings: whose styles the student also meets; may be empty.

    Raises:
        RunError: `path` holds a run with other settings, photographs or paintings.
    """
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    kept, held_out = photos.split(16)
    teacher = features.load("vgg19", compact.LAYERS, keras.config.dtype_policy().compute_dtype)
    model = Distiller(compact.build_untrained(), teacher, config.gram_weight)
    model(np.zeros((1, 32, 32, 3), np.float32))
    rate = loop.warmup_cosine(config.learning_rate, config.steps, warmup=100)
    model.compile(
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), jit_compile=keras.backend.backend() == "jax"
    )
    facts = {"photographs_sha256": photos.digest, "paintings_sha256": paintings.digest}
    run = Run.create(KIND, asdict(config) | facts, path)
    if run.finished:
        return run

    pool = OptimizationPool(model.student, initial_images(kept, paintings, config))

    def batch_at(step: int):
        painted = config.batch_size // 2
        crops = kept.crops(step, config.batch_size - painted, config.size, config.seed)
        crops = augmented(crops, np.random.default_rng((config.seed, step, 1)))
        return (np.concatenate([crops, pool.advance(painted)]) if painted else crops,)

    loss = loop.fit(run, model, batch_at, schedule)
    compact.save_weights(model.student, run.path / "compact.npz")
    model.student.save_weights(run.weights)
    run.finish({"loss": loss, "relative_error": layer_errors(model, held_out), "steps": schedule.steps})
    return run


def layer_errors(model: Distiller, photos: Photos) -> dict[str, float]:
    """Return the relative error of each layer on one unchanged crop of every photo."""
    crops = np.concatenate(list(photos.one_crop_each(160)))
    pairs = zip(compact.LAYERS, model(crops), model.ask_teacher(crops), strict=True)
    return {name: float(relative_error(ops.cast(s, "float32"), ops.cast(t, "float32"))) for name, s, t in pairs}
