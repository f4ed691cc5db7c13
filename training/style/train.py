"""Train the style network with a perceptual loss on VGG19: `reverie train style`, `make train-style`.

The card in `model_repository/style` states what the shipped run reached.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from imaging import images
from reverie.progress import followed
from synthesis.gatys import GatysParameters
from synthesis.loss_terms import Measured
from synthesis.style.balance import ContentBalance
from synthesis.style.loss import PerceptualLoss, Weights
from synthesis.style.network import StyleNetwork, StyleNetworkConfig, build, grow
from training import files, loop
from training.photos import Photos
from training.runs import Run, RunError
from training.style.batches import Batch, ViewBatch
from training.style.teachers import NetworkTeacher, Pairs, Teacher

KIND = "style"
_SHIFTS = 8
"""How far apart two views of a crop can be, each way: the network's grid."""
_MARGIN = 32
"""By how much what the network sees is larger than what the loss sees, which begins `_UNSEEN` pixels or more inside: where
it could see the network's borders, the network would learn to paint something there."""
_UNSEEN = 8


@dataclass(frozen=True)
class StyleTraining:
    """What a run is asked to do.

    Attributes:
        network: the shape, and the names of the styles.
        size: side of the training crops; `style_size`: longer side of the paintings, which sets the
            scale of the strokes. Both in pixels.
        distilled_steps: how many steps, at the start, only copy a teacher (see `training.style.teachers`).
        content_error: how much of the photograph is given up, one a style or one for all; the weight of the error moves
            from `content_weight` until it is that (see `synthesis.style.balance` and `synthesis.style.loss`).
        features: extractor that measures the loss, "vgg19" or, with a fifth of the arithmetic, "compact".
    """

    network: StyleNetworkConfig
    steps: int = 12_000
    batch_size: int = 1
    size: int = 320
    style_size: int = 512
    distilled_steps: int = 0
    learning_rate: float = 2e-3
    content_error: tuple[float, ...] = (0.6,)
    content_weight: float = 0.3
    features: str = "vgg19"
    precision: str = "float32"
    seed: int = 1

    def __post_init__(self) -> None:
        styles = len(self.network.styles)
        if len(self.content_error) not in (1, styles) or not all(0 < error <= 10 for error in self.content_error):
            raise ValueError(
                f"content_error is {list(self.content_error)}; accepted: numbers above 0 up to 10, one or one for each of "
                f"the {styles} styles"
            )

    @classmethod
    def from_dict(cls, data: dict) -> StyleTraining:
        """Return the settings in a run's config.json: the inverse of `dataclasses.asdict`."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["network"] = StyleNetworkConfig(**known["network"])
        known["content_error"] = tuple(known.get("content_error", cls.content_error))
        return cls(**known)

    @classmethod
    def of(cls, paintings: Mapping[str, Path]) -> StyleTraining:
        """Return the default settings for these styles."""
        return cls(StyleNetworkConfig(tuple(paintings)))

    def changed(self, paintings: Mapping[str, Path], **changes: Any) -> StyleTraining:
        """Return these settings with changes; `preset`, `width` and `blocks` are the network's."""
        shape: dict[str, Any] = {name: changes.pop(name) for name in ("preset", "width", "blocks") if name in changes}
        if shape.get("preset", self.network.preset) != self.network.preset:
            shape = {"width": 0, "blocks": 0} | shape  # The other preset's own.
        return replace(self, network=replace(self.network, styles=tuple(paintings), **shape), **changes)

    @property
    def content_errors(self) -> tuple[float, ...]:
        """The content error of each style."""
        styles = len(self.network.styles)
        return self.content_error * styles if len(self.content_error) == 1 else self.content_error


class StyleTrainer(keras.Model):
    """The network with its loss.

    Inputs are those of a `ViewBatch`, for the perceptual loss, or of a `DistillationBatch`, with pictures to copy.
    There are no other targets. The two views of a crop should be painted alike: with the grids of network and
    extractor always alike, the network would learn the extractor's blind spots as a pattern, and flicker where a
    camera moves.

    Args:
        loss: restyled pictures, photographs, style weights and content weights to the terms of `PerceptualLoss`.
        size: side of the loss's window in pixels.
    """

    def __init__(
        self, network: StyleNetwork, loss: Callable[..., Measured], balance: ContentBalance, size: int, weights: Weights
    ):
        super().__init__()
        self.network = network  # The first: its variables come first in checkpoints.
        self.balance = balance
        # A closure: the extractor's variables are neither trained nor checkpointed.
        self.loss_terms = lambda *args: loss(*args)
        self._size, self._loss_weights = size, weights

    def call(self, inputs):
        image = inputs["image"] if "target" in inputs else self._view(inputs["image"], (0, 0))
        return self.network.paint(image, self.vectors(inputs))

    def vectors(self, inputs):
        """Return the styles to paint in, float32 (batch, length)."""
        return self.network.vectors(inputs["style_weights"])

    def terms(self, painted, photo, inputs) -> Measured:
        """Return the loss of windows, with the content weights of the moment, which move by it."""
        style_weights = inputs["style_weights"]
        terms = self.loss_terms(painted, photo, style_weights, self.balance(style_weights))
        self.balance.update(terms["content"], style_weights)
        return terms

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if "target" in x:
            return ops.mean(ops.abs(y_pred - x["target"])) / 127.5
        image, views = x["image"], x["views"]
        corner, shift = views[0, :2], views[0, 2:]
        painted = _window(y_pred, corner, self._size)
        photo = _window(image, corner, self._size)
        terms = self.terms(painted, photo, x)
        again = self.network.paint(self._view(image, shift), self.vectors(x))
        moved = instability(painted, _window(again, corner - shift, self._size))
        return ops.mean(terms.total + self._loss_weights.instability * moved)

    def _view(self, image, corner):
        return _window(image, corner, self._size + _MARGIN)


def instability(painted, again):
    """Return how much two paintings of one scene differ, over the difference of neighboring pixels: float32 (batch,).

    Args:
        painted, again: float (batch, height, width, 3).
    """
    steps = [painted[:, 1:] - painted[:, :-1], painted[:, :, 1:] - painted[:, :, :-1]]
    gradient = sum(ops.mean(ops.abs(step), axis=(1, 2, 3)) for step in steps) / 2
    # The difference alone should shrink: a rougher picture is no remedy.
    return ops.mean(ops.abs(painted - again), axis=(1, 2, 3)) / (ops.stop_gradient(gradient) + 1.0)


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
        initial: a run to start from: its weights instead of random ones. Its network may be smaller (see
            `synthesis.style.network.grow`).

    Raises:
        RunError: `initial` has a network that cannot grow into this one, or no weights yet.
    """
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    # Before the extractor, whose building draws random numbers only once in a process.
    network = build(config.network)
    start = {}
    if initial:
        warm_start(initial, network)
        start = {"initial_weights_sha256": weights_digest(network)}
    kept, held_out = split(photos)
    loss = loss_of(config, paintings.values())
    run = Run.create(KIND, asdict(config) | facts_of(paintings, photos) | start, path)

    def batch_at(step: int) -> Batch:
        return teacher.batch(step) if teacher and step < config.distilled_steps else batch_of(kept, config, step)

    fit(run, trainer(network, loss, config), config, batch_at, held_out, schedule, config.network.styles)
    return run


def named_paintings(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the paintings by the names of their styles, which are their files' names.

    Raises:
        RunError: two have one name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        if path.stem in named:
            raise RunError(
                f"{named[path.stem]} and {path} would both be the style {path.stem!r}; accepted: file names that differ"
            )
        named[path.stem] = path
    return named


def facts_of(paintings: Mapping[str, Path], photos: Photos) -> dict[str, Any]:
    """Return what tells a run's data from others, for its configuration."""
    return {
        "paintings_sha256": {name: files.digest([path]) for name, path in paintings.items()},
        "photographs_sha256": photos.digest,
    }


def weights_digest(network: StyleNetwork) -> str:
    """Return the SHA-256 of all variables."""
    return hashlib.sha256(b"".join(ops.convert_to_numpy(v).tobytes() for v in network.variables)).hexdigest()


def trainer(network: StyleNetwork, loss: Callable[..., Measured], config: StyleTraining) -> StyleTrainer:
    """Return the network with the loss and the balance that the settings ask for."""
    balance = ContentBalance(config.content_errors, config.content_weight)
    return StyleTrainer(network, loss, balance, config.size, Weights())


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
    model(batch_at(0).inputs())
    final = loop.fit(
        run,
        model,
        lambda step: (batch_at(step).inputs(),),
        schedule,
        on_sample=lambda step: write_samples(run, model.network, held_out, step),
    )
    model.network.save_weights(run.weights)
    run.finish({"loss": final, **held_out_errors(model, held_out, config, taught), "steps": schedule.steps})


def teacher_of(
    config: StyleTraining,
    paintings: Mapping[str, Path],
    photos: Photos,
    run: Path | None,
    pairs: int,
    cache: Path,
    on_pair: Callable[[int], None] = lambda made: None,
) -> Teacher | None:
    """Return a trained network, `pairs` transfers by Gatys' optimization (made now, kept in `cache`), or none.

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
        folder = cache / _pairs_key(config, facts_of(paintings, photos))
        made = Pairs(folder, config.network.styles, pairs, config.batch_size, config.seed)
        made.make(kept, paintings, config.size, GatysParameters(recipe="book", size=config.size), on_pair)
        return made
    return None


def _pairs_key(config: StyleTraining, facts: dict[str, Any]) -> str:
    """Names the folder of pairs that were made of the same pictures, at the same size, in the same order."""
    made_of = {"size": config.size, "seed": config.seed, "styles": config.network.styles, **facts}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def split(photos: Photos) -> tuple[Photos, Photos]:
    """Return the photographs for training, and those that no style training ever sees."""
    return photos.split(min(20, len(photos.paths) // 2))


def loss_of(config: StyleTraining, paintings: Iterable[Path]) -> PerceptualLoss:
    """Return the run's loss, for these paintings at the scale of its strokes."""
    pictures = [images.fit_within(images.read(path), config.style_size) for path in paintings]
    dtype = "bfloat16" if config.precision == "mixed_bfloat16" else "float32"
    return PerceptualLoss(pictures, config.features, dtype)


def batch_of(photos: Photos, config: StyleTraining, step: int) -> ViewBatch:
    """Return the crops of a step, for each one style, all styles in turn, and their views (see `StyleTrainer`)."""
    count = config.batch_size
    crops = photos.crops(step, count, config.size + _MARGIN + _SHIFTS, config.seed)
    rng = np.random.default_rng((config.seed, step, 2))
    corner, shift = rng.integers(_UNSEEN, _MARGIN - _UNSEEN, 2, endpoint=True), rng.integers(_SHIFTS, size=2)
    views = np.concatenate([corner, shift]).astype(np.int32)
    return ViewBatch(crops, styles_in_turn(step, count, len(config.network.styles)), np.tile(views, (count, 1)))


def styles_in_turn(step: int, count: int, styles: int) -> np.ndarray:
    """Return one-hot weights, float32 (count, styles); over the steps all styles come equally often."""
    return np.eye(styles, dtype=np.float32)[(step * count + np.arange(count)) % styles]


def held_out_errors(
    model: StyleTrainer, photos: Photos, config: StyleTraining, taught: Sequence[str]
) -> dict[str, float]:
    """Measure the content and the style error on one fixed crop of each held-out photo: the mean, and each style's own."""
    errors = {}
    for name in taught:
        style = np.eye(len(config.network.styles), dtype=np.float32)[[config.network.styles.index(name)]]
        crops = followed(
            photos.one_crop_each(config.size), f"measuring {name}, held-out photographs", len(photos.paths)
        )
        each = [model.loss_terms(model.network((crop, style)), crop, style) for crop in crops]
        for kind in ("content", "style"):
            errors[f"{kind}_error_{name}"] = float(np.mean([ops.convert_to_numpy(terms[kind]) for terms in each]))
    means = {
        f"{kind}_error": float(np.mean([v for k, v in errors.items() if k.startswith(f"{kind}_error_")]))
        for kind in ("content", "style")
    }
    return {"held_out_loss": means["style_error"] + config.content_weight * means["content_error"], **means, **errors}


def write_samples(run: Run, network: StyleNetwork, photos: Photos, step: int) -> None:
    """Write a sheet of four held-out photos (rows) in every style (columns)."""
    styles = np.eye(len(network.config.styles), dtype=np.float32)
    rows = []
    for photo in itertools.islice(photos.one_crop_each(256), 4):
        restyled = [ops.convert_to_numpy(network((photo, style[None])))[0] for style in styles]
        rows.append(np.concatenate([photo[0], *restyled], axis=1))
    Image.fromarray(images.to_uint8(np.concatenate(rows))).save(run.samples / f"step_{step:06d}.jpg", quality=90)


def warm_start(run: Run, network: StyleNetwork) -> None:
    """Give `network` the weights of `run`: the final ones, or those of the last checkpoint.

    Raises:
        RunError: see `train`.
    """
    found = build(StyleTraining.from_dict(run.config).network)
    if run.finished:
        found.load_weights(run.weights)
    else:
        checkpoint = run.checkpoints.load()
        if checkpoint is None:
            raise RunError(f"{run.path} has no weights yet; let it train to its first checkpoint")
        loop.assign(found.variables, checkpoint[1][: len(found.variables)])  # the model's come first
    try:
        grow(found, network)
    except ValueError as error:
        raise RunError(f"cannot start from {run.path}: {error}") from error


def load(run: Run) -> StyleNetwork:
    """Return the finished network of `run`, in float32.

    Raises:
        RunError: the run is not finished.
    """
    _ = run.result  # raises where the run is not finished
    keras.config.set_dtype_policy("float32")
    network = build(StyleTraining.from_dict(run.config).network)
    network.load_weights(run.weights)
    return network
