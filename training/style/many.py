"""Train a network that knows painting rather than a few paintings: `reverie train painter`.

The network's convolutions learn together with a predictor that looks at a painting and says its style's vector (see
`synthesis.style.predictor`), from a few hundred paintings. A few *named* styles keep their own rows of the network's
table, so that a run may go on from a network that has these styles, and loses none of them.

Knows nothing of how a style is fitted to one painting afterwards (`training.style.learn`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from imaging import images
from reverie.progress import followed
from synthesis.loss_terms import Measured
from synthesis.style.balance import ContentBalance, kinship
from synthesis.style.loss import STYLE_LAYERS, PerceptualLoss, StyleTargets, Weights
from synthesis.style.network import StyleNetwork, build
from synthesis.style.predictor import StylePredictor, statistics_of
from training import files, loop
from training.photos import Photos
from training.runs import Run, RunError
from training.style.paintings import CHANNELS, Paintings
from training.style.train import (
    KIND,
    StyleTrainer,
    StyleTraining,
    batch_of,
    facts_of,
    split,
    warm_start,
    weights_digest,
)

PREDICTOR = "predictor.npz"
"""The predictor's file in a run's folder, beside the network's."""
_JITTER = 0.1
"""Standard deviation of what is added to the statistics, over their own over the paintings: no painting is a point."""
_SAMPLE_SIDE = 192


@dataclass(frozen=True)
class PainterTraining(StyleTraining):
    """What a run is asked to do; `network.styles` are those with their own rows.

    Attributes:
        own_share: how many of the steps train the named styles' own rows; all others train the predictor.
        recolored_share: how many of the predictor's steps exchange the painting's color channels.
        content_error_predicted: as `content_error`, for all paintings but the named.
        held_out: names of paintings that are never trained on.
    """

    own_share: float = 0.3
    recolored_share: float = 0.25
    content_error_predicted: float = 0.6
    held_out: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "held_out", tuple(self.held_out))
        for name in ("own_share", "recolored_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: from 0 to 1")


class PainterTrainer(StyleTrainer):
    """A `StyleTrainer` whose styles are predicted from paintings, or are named rows.

    Inputs beside `image` and `views`: `style_weights`, rows of zeros for predicted styles; `predicted`, 1 for those;
    `statistics`; `painting`, one-hot among the paintings of the balance; and the targets of the loss.

    Args:
        loss: with `PerceptualLoss.measure`.
    """

    def __init__(
        self,
        network: StyleNetwork,
        predictor: StylePredictor,
        loss: PerceptualLoss,
        balance: ContentBalance,
        config: PainterTraining,
    ):
        super().__init__(network, loss, balance, config.size, Weights())
        self.predictor = predictor
        self.measured = lambda *args: loss.measure(*args)  # a closure: see `StyleTrainer`

    def vectors(self, inputs):
        predicted = inputs["predicted"] * self.predictor(inputs["statistics"])
        return self.network.vectors(inputs["style_weights"]) + predicted

    def terms(self, painted, photo, inputs) -> Measured:
        targets = StyleTargets([inputs[layer] for layer in STYLE_LAYERS], inputs["roughness"])
        terms = self.measured(painted, photo, targets, self.balance(inputs["painting"]))
        self.balance.update(terms["content"], inputs["painting"])
        return terms


@dataclass(frozen=True)
class PainterBatches:
    """The batches of a run: each depends on the step alone.

    Attributes:
        photos: what crops are taken from.
        names: the paintings that are trained on; those with their own rows come first.
        spread: standard deviations of their statistics, float32 (numbers,).
    """

    config: PainterTraining
    photos: Photos
    paintings: Paintings
    names: Sequence[str]
    spread: np.ndarray

    def at(self, step: int) -> dict[str, Any]:
        """Return what `PainterTrainer` takes."""
        views = batch_of(self.photos, self.config, step)
        rng = np.random.default_rng((self.config.seed, step, 3))
        styles = [self._style(rng) for _ in range(self.config.batch_size)]
        return {"image": views.photos, "views": views.views} | {
            name: np.concatenate([style[name] for style in styles]) for name in styles[0]
        }

    def _style(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        named = len(self.config.network.styles)
        is_own = rng.random() < self.config.own_share
        index = int(rng.integers(named if is_own else len(self.names)))
        recolored = not is_own and rng.random() < self.config.recolored_share
        order = int(rng.integers(1, len(CHANNELS))) if recolored else 0
        statistics = self.paintings.statistics(self.names[index], order)
        noise = _JITTER * self.spread * rng.normal(size=statistics.shape)
        return {
            "style_weights": float(is_own) * np.eye(len(self.names), named, dtype=np.float32)[[index]],
            "predicted": np.full((1, 1), not is_own, np.float32),
            "painting": np.eye(len(self.names), dtype=np.float32)[[index]],
            "statistics": (statistics + noise).astype(np.float32),
        } | _flat(self.paintings.targets(self.names[index], order))


def _flat(targets: StyleTargets) -> dict[str, np.ndarray]:
    return dict(zip(STYLE_LAYERS, targets.grams, strict=True)) | {"roughness": targets.roughness}


def train(
    config: PainterTraining,
    paths: Mapping[str, Path],
    photos: Photos,
    path: Path | None,
    schedule: loop.Schedule,
    cache: Path,
    initial: Run,
) -> Run:
    """Train or resume a run; writes the weights of network and predictor, and sheets of drafts.

    Args:
        paths: the paintings by name; among them the named styles' and those that are held out.
        cache: where measures of the paintings are kept.
        initial: a run with the named styles, to go on from; where it is of this kind, its predictor goes on too.

    Raises:
        RunError: a named or held-out painting is missing, or is both; see also `training.style.train.warm_start`.
    """
    check(config, paths)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    network = build(config.network)
    warm_start(initial, network)
    run = Run.create(
        KIND, asdict(config) | facts_of(paths, photos) | {"initial_weights_sha256": weights_digest(network)}, path
    )
    paintings = Paintings(dict(paths), config.style_size, config.features, cache)
    kept, held_out = split(photos)
    names = trained(config, paths)
    looked_at = followed(names, "looking at the paintings", len(names))
    statistics = np.concatenate([paintings.statistics(name) for name in looked_at])
    model = trainer(network, statistics, config)
    if "held_out" in initial.config:
        go_on_from(initial, model)
    batches = PainterBatches(config, kept, paintings, names, statistics.std(0))
    fit(run, model, batches, held_out, schedule)
    return run


def check(config: PainterTraining, paths: Mapping[str, Path]) -> None:
    """Raise RunError where a named or held-out painting is missing, or a painting is both."""
    missing = [name for name in (*config.network.styles, *config.held_out) if name not in paths]
    if missing:
        raise RunError(f"there is no painting called {', '.join(missing)}; accepted: {', '.join(sorted(paths))}")
    both = sorted(set(config.network.styles) & set(config.held_out))
    if both:
        raise RunError(f"{', '.join(both)} cannot be held out: it has its own row; hold out another painting")


def trained(config: PainterTraining, paths: Mapping[str, Path]) -> list[str]:
    """Return the names of the paintings that are trained on, those with their own rows first."""
    named = config.network.styles
    return [*named, *sorted(name for name in paths if name not in (*named, *config.held_out))]


def trainer(network: StyleNetwork, statistics: np.ndarray, config: PainterTraining) -> PainterTrainer:
    """Return the network with a new predictor, which starts as the mean of the named styles."""
    predictor = StylePredictor(network.length, statistics.shape[1])
    styles = len(config.network.styles)
    predictor.adapt(statistics, ops.convert_to_numpy(network.vectors(np.eye(styles, dtype=np.float32))))
    others = len(statistics) - styles
    targets = (*config.content_errors, *(config.content_error_predicted,) * others)
    shared = kinship(ops.convert_to_numpy(predictor.components(statistics)))
    balance = ContentBalance(targets, config.content_weight, shared)
    dtype = "bfloat16" if config.precision == "mixed_bfloat16" else "float32"
    return PainterTrainer(network, predictor, PerceptualLoss((), config.features, dtype), balance, config)


def go_on_from(run: Run, model: PainterTrainer) -> None:
    """Give network, predictor and balance what they were in another run of this kind.

    Raises:
        RunError: that run has no checkpoint, or other paintings.
    """
    checkpoint = run.checkpoints.load()
    if checkpoint is None:
        raise RunError(f"{run.path} has no weights yet; let it train to its first checkpoint")
    values = checkpoint[1][: len(model.variables)]  # the model's come first
    if [value.shape for value in values] != [tuple(variable.shape) for variable in model.variables]:
        raise RunError(f"{run.path} was trained on other paintings; accepted: a run on the same ones")
    loop.assign(model.variables, values)


def drafter(run: Run) -> tuple[StyleNetwork, StylePredictor]:
    """Return network and predictor of a run, finished or not: of its last checkpoint.

    Raises:
        RunError: the run is of another kind, or has no checkpoint yet.
    """
    if "held_out" not in run.config:
        raise RunError(f"{run.path} has no predictor of styles; accepted: a run of 'reverie train painter'")
    checkpoint = run.checkpoints.load()
    if checkpoint is None:
        raise RunError(f"{run.path} has no weights yet; let it train to its first checkpoint")
    keras.config.set_dtype_policy("float32")
    network = build(PainterTraining.from_dict(run.config).network)
    predictor = StylePredictor(network.length, statistics_of([np.zeros((64, 64, 3), np.uint8)]).shape[1])
    # The model's variables come first, and in it these, with the balance's one between them.
    networks = len(network.variables)
    loop.assign(network.variables, checkpoint[1][:networks])
    loop.assign(predictor.variables, checkpoint[1][networks + 1 : networks + 1 + len(predictor.variables)])
    return network, predictor


def fit(run: Run, model: PainterTrainer, batches: PainterBatches, held_out: Photos, schedule: loop.Schedule) -> None:
    """Train network and predictor and finish the run; nothing if it is finished."""
    if run.finished:
        return
    config = batches.config
    rate = loop.warmup_cosine(config.learning_rate, config.steps, warmup=100)
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=keras.backend.backend() == "jax")
    model(batches.at(0))
    final = loop.fit(
        run,
        model,
        lambda step: (batches.at(step),),
        schedule,
        on_sample=lambda step: write_samples(run, model, batches, held_out, step),
    )
    model.network.save_weights(run.weights)
    files.save_arrays(run.path / PREDICTOR, model.predictor.arrays())
    run.finish({"loss": final, **draft_errors(model, batches, held_out), "steps": schedule.steps})


def draft_errors(model: PainterTrainer, batches: PainterBatches, photos: Photos) -> dict[str, float]:
    """Measure drafts of the held-out paintings on held-out photographs: mean content and style error, each one's style error."""
    errors: dict[str, list[float]] = {"content": [], "style": []}
    of_each = {}
    names = batches.config.held_out
    for name in followed(names, "measuring drafts of held-out paintings", len(names)):
        targets = batches.paintings.targets(name)
        vector = model.predictor(batches.paintings.statistics(name))
        each = [
            model.measured(model.network.paint(crop, vector), crop, targets)
            for crop in photos.one_crop_each(batches.config.size)
        ]
        for kind, found in errors.items():
            found.append(float(np.mean([ops.convert_to_numpy(terms[kind]) for terms in each])))
        of_each[f"draft_style_error_{name}"] = errors["style"][-1]
    return {f"draft_{kind}_error": float(np.mean(found)) for kind, found in errors.items() if found} | of_each


def write_samples(run: Run, model: PainterTrainer, batches: PainterBatches, photos: Photos, step: int) -> None:
    """Write a sheet: in each row a painting, and three held-out photographs in its style.

    First the named styles, then some that are trained on, then those that are held out; the second half stands beside
    the first.
    """
    shown = list(itertools.islice(photos.one_crop_each(_SAMPLE_SIDE), 3))
    rows = [np.concatenate(list(_sample_row(model, batches, name, shown)), axis=1) for name in sampled(batches)]
    rows += [np.zeros_like(rows[0])] * (len(rows) % 2)
    half = len(rows) // 2
    sheet = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1)
    Image.fromarray(images.to_uint8(sheet)).save(run.samples / f"step_{step:06d}.jpg", quality=90)


def sampled(batches: PainterBatches) -> list[str]:
    """Return the names of the paintings that a sheet shows."""
    named = len(batches.config.network.styles)
    others = batches.names[named:]
    some = others[:: max(1, len(others) // 7)][:7]
    return [*batches.names[:named], *some, *batches.config.held_out]


def _sample_row(
    model: PainterTrainer, batches: PainterBatches, name: str, shown: Sequence[np.ndarray]
) -> Iterator[np.ndarray]:
    painting = images.read(batches.paintings.paths[name])
    side = min(painting.shape[:2])
    yield images.resize(painting[:side, :side], _SAMPLE_SIDE, _SAMPLE_SIDE).astype(np.float32)
    styles = batches.config.network.styles
    if name in styles:
        vector = model.network.vectors(np.eye(len(styles), dtype=np.float32)[[styles.index(name)]])
    else:
        vector = model.predictor(batches.paintings.statistics(name))
    for photo in shown:
        yield ops.convert_to_numpy(model.network.paint(photo, vector))[0]
