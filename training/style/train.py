"""Train the style network with a perceptual loss on VGG19: `reverie train style`, `make train-style`.

The card in `model_repository/style` states what the shipped run reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image

from synthesis import images
from synthesis.gatys import GatysParameters
from training import loop
from training.photos import Photos
from training.runs import Run, RunError
from training.style.loss import PerceptualLoss
from training.style.network import StyleNetwork, StyleNetworkConfig, build, grow
from training.style.teachers import Batch, NetworkTeacher, Pairs, Teacher

KIND = "style"
_SHIFTS = 8
"""Corners that the loss looks from, each way: the network's grid."""


@dataclass(frozen=True)
class StyleTraining:
    """What a run is asked to do.

    Attributes:
        network: the shape, and the names of the styles.
        size: side of the training crops; `style_size`: longer side of the paintings, which sets the
            scale of the strokes. Both in pixels.
        distilled_steps: how many steps, at the start, only copy a teacher (see `training.style.teachers`).
        content_weight: of the photograph's structure (see `training.style.loss`).
        features: extractor that measures the loss, "vgg19" or, with a fifth of the arithmetic, "compact".
    """

    network: StyleNetworkConfig
    steps: int = 12_000
    batch_size: int = 1
    size: int = 320
    style_size: int = 384
    distilled_steps: int = 0
    learning_rate: float = 2e-3
    content_weight: float = 0.7
    features: str = "vgg19"
    precision: str = "float32"
    seed: int = 1

    @classmethod
    def from_dict(cls, data: dict) -> StyleTraining:
        """Inverse of `dataclasses.asdict`, for a run's config.json."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["network"] = StyleNetworkConfig(**known["network"])
        return cls(**known)


class StyleTrainer(keras.Model):
    """The network with its loss.

    Inputs are `(image, style_weights, shift)` for the perceptual loss, or `(image, style_weights, target)` with
    a picture to copy; there are no other targets. The extractor sees the pictures from `shift`, an int32
    (batch, 2) with one value for all: with the grids of network and extractor always alike, the network would
    learn the extractor's blind spots as a pattern.
    """

    def __init__(self, network: StyleNetwork, loss: Callable):
        super().__init__()
        self.network = network
        # A closure: the extractor's variables are neither trained nor checkpointed.
        self.measure = lambda *args: loss(*args)

    def call(self, inputs):
        return self.network(inputs[:2])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        image, style_weights, third = x
        if len(third.shape) == 4:
            return ops.mean(ops.abs(y_pred - third)) / 127.5
        size = ops.shape(image)[1] - _SHIFTS
        seen, photo = (_window(picture, third[0], size) for picture in (y_pred, image))
        return self.measure(seen, photo, style_weights)


def _window(image, corner, size: int):
    return ops.slice(image, (0, corner[0], corner[1], 0), (image.shape[0], size, size, 3))


def train(
    config: StyleTraining,
    paintings: Mapping[str, Path],
    photos: Photos,
    path: Path | None,
    schedule: loop.Schedule,
    teacher: Teacher | None = None,
    initial: Run | None = None,
) -> Run:
    """Train or resume a run; writes weights, sample pictures and the loss on held-out photos.

    Args:
        teacher: what the first `config.distilled_steps` steps copy.
        initial: a run to go on from: its weights instead of random ones. Its network may be smaller (see
            `training.style.network.grow`).

    Raises:
        RunError: `initial` has a network that cannot grow into this one, or no weights yet.
    """
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    # Before the extractor, whose building draws random numbers only once in a process.
    network = build(config.network)
    start = {"from": str(initial.path)} if initial else {}
    if initial:
        go_on_from(initial, network)
    kept, held_out = split(photos)
    loss = loss_of(config, paintings.values())
    run = Run.create(KIND, asdict(config) | start, path)

    def batch_at(step: int) -> Batch:
        return teacher.batch(step) if teacher and step < config.distilled_steps else batch_of(kept, config, step)

    fit(run, StyleTrainer(network, loss), config, batch_at, held_out, schedule, config.network.styles)
    return run


def fit(
    run: Run,
    model: StyleTrainer,
    config: StyleTraining,
    batch_at: Callable[[int], Batch],
    held_out: Photos,
    schedule: loop.Schedule,
    taught: Sequence[str],
) -> None:
    """Train the trainable weights of `model` and finish the run; nothing if it is finished.

    Args:
        taught: the styles whose loss on `held_out` is the run's result.
    """
    if run.finished:
        return
    rate = loop.warmup_cosine(config.learning_rate, config.steps, warmup=50)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=keras.backend.backend() == "jax")
    model(batch_at(0))
    final = loop.fit(
        run,
        model,
        lambda step: (batch_at(step),),
        schedule,
        on_sample=lambda step: write_samples(run, model.network, held_out, step),
    )
    model.network.save_weights(run.weights)
    run.finish({"loss": final, **held_out_losses(model, held_out, config, taught), "steps": schedule.steps})


def teacher_of(
    config: StyleTraining,
    paintings: Mapping[str, Path],
    photos: Photos,
    run: Path | None,
    pairs: int,
    cache: Path,
    on_pair: Callable[[int], None] = lambda made: None,
) -> Teacher | None:
    """A trained network, `pairs` transfers by Gatys' optimisation (made now, kept in `cache`), or none.

    Raises:
        RunError: `run` is not finished or has other styles.
    """
    kept, _ = split(photos)
    if run is not None:
        network = load(Run(run))
        if network.config.styles != config.network.styles:
            raise RunError(f"{run} has the styles {network.config.styles}; accepted: {config.network.styles}")
        return NetworkTeacher(network, lambda step: batch_of(kept, config, step))
    if pairs:
        made = Pairs(cache, config.network.styles, pairs, config.batch_size, config.seed)
        made.make(kept, paintings, config.size, GatysParameters(recipe="book", size=config.size), on_pair)
        return made
    return None


def split(photos: Photos) -> tuple[Photos, Photos]:
    """Photographs for training, and those that no run of this kind ever sees."""
    return photos.split(min(20, len(photos.paths) // 2))


def loss_of(config: StyleTraining, paintings: Iterable[Path]) -> PerceptualLoss:
    """The run's loss, for these paintings at the scale of its strokes."""
    pictures = [images.fit_within(images.read(path), config.style_size) for path in paintings]
    dtype = "bfloat16" if config.precision == "mixed_bfloat16" else "float32"
    return PerceptualLoss(pictures, config.content_weight, config.features, dtype)


def batch_of(photos: Photos, config: StyleTraining, step: int) -> Batch:
    """Crops, for each one style, all styles in turn, and where the loss begins to look.

    Returns:
        float32 (batch, size, size, 3), float32 (batch, styles), int32 (batch, 2).
    """
    count = config.batch_size
    crops = photos.crops(step, count, config.size + _SHIFTS, config.seed)
    corner = np.random.default_rng((config.seed, step, 2)).integers(_SHIFTS, size=2, dtype=np.int32)
    return crops, styles_in_turn(step, count, len(config.network.styles)), np.tile(corner, (count, 1))


def styles_in_turn(step: int, count: int, styles: int) -> np.ndarray:
    """One-hot float32 (count, styles); over the steps all styles come equally often."""
    return np.eye(styles, dtype=np.float32)[(step * count + np.arange(count)) % styles]


def held_out_losses(
    model: StyleTrainer, photos: Photos, config: StyleTraining, taught: Sequence[str]
) -> dict[str, float]:
    """Mean loss over one fixed crop of each held-out photo in every style, and each style's own."""
    losses = {}
    for name in taught:
        style = np.eye(len(config.network.styles), dtype=np.float32)[[config.network.styles.index(name)]]
        crops = photos.one_crop_each(config.size)
        losses[f"held_out_loss_{name}"] = np.mean([model.measure(model.network((c, style)), c, style) for c in crops])
    return {name: float(loss) for name, loss in ({"held_out_loss": np.mean(list(losses.values()))} | losses).items()}


def write_samples(run: Run, network: StyleNetwork, photos: Photos, step: int) -> None:
    """A sheet of four held-out photos (rows) in every style (columns)."""
    styles = np.eye(len(network.config.styles), dtype=np.float32)
    rows = []
    for photo in itertools.islice(photos.one_crop_each(256), 4):
        restyled = [ops.convert_to_numpy(network((photo, style[None])))[0] for style in styles]
        rows.append(np.concatenate([photo[0], *restyled], axis=1))
    Image.fromarray(images.to_uint8(np.concatenate(rows))).save(run.samples / f"step_{step:06d}.jpg", quality=90)


def go_on_from(run: Run, network: StyleNetwork) -> None:
    """Give `network` the weights of `run`: a finished run's, or those of the last checkpoint.

    Raises:
        RunError: see `train`.
    """
    found = build(StyleTraining.from_dict(run.config).network)
    if run.finished:
        found.load_weights(run.weights)
    else:
        checkpoint = run.load_checkpoint()
        if checkpoint is None:
            raise RunError(f"{run.path} has no weights yet; let it train to its first checkpoint")
        loop.assign(found.variables, checkpoint[1][: len(found.variables)])  # the model's come first
    try:
        grow(found, network)
    except ValueError as error:
        raise RunError(f"{run.path} cannot be gone on from: {error}") from error


def load(run: Run) -> StyleNetwork:
    """The finished network of `run`, in float32.

    Raises:
        RunError: the run is not finished.
    """
    _ = run.result  # raises where the run is not finished
    keras.config.set_dtype_policy("float32")
    network = build(StyleTraining.from_dict(run.config).network)
    network.load_weights(run.weights)
    return network
