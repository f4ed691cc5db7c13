"""Train a language model: `reverie train lm`, `make train-lm`.

Two architectures share everything here: the book's over words, and pre-norm blocks over byte pairs.
`presets` names the configurations worth running and what they reached; test reviews are held out.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from rich.console import Console

from language.tokenizer import Tokenizer, load_tokenizer
from reverie.progress import followed, say
from training import loop
from training.distribution import Distribution
from training.language_model import reviews
from training.language_model.evaluate import Scored
from training.language_model.model import LanguageModel, LanguageModelConfig, crossentropy, token_losses
from training.language_model.optimizers import OPTIMIZERS
from training.language_model.pre_norm import PreNormConfig, PreNormLanguageModel
from training.language_model.samples import continue_prompt
from training.runs import Run, RunError

KIND = "language_model"
VALIDATION_ROWS = 256
"""Rows that are measured during training, spread evenly over the held-out training reviews."""
HELD_OUT_FILE = "held_out.npy"
"""Rows of ids in a run's folder that it did not train on; an export measures its precisions on them."""

Model = LanguageModel | PreNormLanguageModel


class Architecture(NamedTuple):
    """What belongs together: a model, its sizes, and the kind of its tokens (see `Reviews.prepare`)."""

    model: type[keras.Model]
    config: type
    tokenization: str


ARCHITECTURES = {
    "book": Architecture(LanguageModel, LanguageModelConfig, "words"),
    "pre_norm": Architecture(PreNormLanguageModel, PreNormConfig, "byte_pairs"),
}


@dataclass(frozen=True)
class LanguageModelTraining:
    """What a run is asked to do.

    Attributes:
        model: sizes.
        architecture: a key of `ARCHITECTURES` that fits `model`.
        steps: batches of `batch_size` rows of `model.positions` tokens.
        optimizer: "rmsprop" at a constant rate (the book's), "adamw", or "muon" (momentum orthogonalised
            for matrices, AdamW for the rest), the last two with warm-up, cosine and clipping.
        learning_rate: constant for rmsprop, peak for the others.
        warmup_steps, weight_decay, beta_2: of adamw and muon; only matrices decay.
        precision: Keras dtype policy; "mixed_bfloat16" doubles the speed where the processor has bf16.
        sample_words: tokens in a sample.
    """

    model: LanguageModelConfig | PreNormConfig = field(default_factory=LanguageModelConfig)
    steps: int = 3_000
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    precision: str = "float32"
    seed: int = 1
    prompt: str = "this movie"
    temperatures: tuple[float, ...] = (0.2, 0.5, 0.7, 1.0, 1.5)
    sample_words: int = 50
    architecture: str = "book"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    beta_2: float = 0.98

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; accepted: {', '.join(OPTIMIZERS)}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; accepted: above 0, below 1")
        if not isinstance(self.model, ARCHITECTURES[self.architecture].config):
            raise ValueError(f"architecture is {self.architecture!r}, but model is {self.model}")

    @property
    def tokenization(self) -> str:
        return ARCHITECTURES[self.architecture].tokenization

    @classmethod
    def from_dict(cls, data: dict) -> LanguageModelTraining:
        """Return the settings in a run's config.json: the inverse of `dataclasses.asdict`."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["model"] = ARCHITECTURES[known.get("architecture", "book")].config(**known["model"])
        known["temperatures"] = tuple(known["temperatures"])
        return cls(**known)


def build(config: LanguageModelTraining) -> Model:
    """Return the untrained model of a run with its variables made, in the current dtype policy."""
    model = ARCHITECTURES[config.architecture].model(config.model)
    model(ops.zeros((1, 2), "int32"))
    return model


def train(
    config: LanguageModelTraining,
    source: Path,
    cache: Path,
    path: Path | None,
    schedule: loop.Schedule,
    distribution: Distribution | None = None,
    jit_compile: bool = False,
    initial: Run | None = None,
) -> Run:
    """Train or resume a run and write its best weights, tokenizer, samples and validation figures.

    Args:
        source, cache: see `Reviews.prepare`.
        path: the run's folder; see `Run.create`. A worker that is not the chief gets it back as it is: the chief writes it,
            maybe on another machine and maybe later.
        schedule: `sample_every` None samples after each epoch, as the book does.
        distribution: where the replicas are; default: one device.
        jit_compile: compile the step with XLA; it cannot be combined with a distribution.
        initial: a run to start from: its sizes, tokenizer and weights instead of new ones. `config` says the rest.

    Raises:
        ValueError: `jit_compile` with a distribution, or replicas that do not divide the batch.
        RunError: `initial` has another architecture, or no weights yet.
    """
    distribution = distribution or Distribution()
    distribution.check(config.batch_size, jit_compile)
    keras.utils.set_random_seed(config.seed)
    start = Start.of(initial, config.architecture) if initial else None
    if start:
        config = replace(config, model=replace(start.model, dropout=config.model.dropout))
    data = reviews.Reviews.prepare(
        source,
        config.tokenization,
        config.model.vocabulary_size,
        config.model.positions,
        cache,
        start.tokenizer if start else None,
    )
    # A small corpus has fewer words than were allowed.
    config = replace(config, model=replace(config.model, vocabulary_size=len(data.tokenizer)))
    facts = {"data_sha256": data.info["digest"]} | ({"initial_weights_sha256": start.digest} if start else {})
    with distribution.open_run(KIND, asdict(config) | facts, path) as run:
        if not run.finished:
            data.tokenizer.save(run.path)
            np.save(run.path / HELD_OUT_FILE, evenly_spaced(data.validation, VALIDATION_ROWS))
            _train(config, data, run, schedule, distribution, jit_compile, start)
    return distribution.finished_run(run, path)


@dataclass(frozen=True)
class Start:
    """What a run takes from another that it starts from.

    Attributes:
        variables: of the whole model, in its order.
        digest: SHA-256 of them.
    """

    model: LanguageModelConfig | PreNormConfig
    tokenizer: Tokenizer
    variables: list[np.ndarray]
    digest: str

    @classmethod
    def of(cls, run: Run, architecture: str) -> Start:
        """Return the best weights of `run`, whose architecture must be `architecture`.

        Raises:
            RunError: it is not, or the run has no weights yet.
        """
        found = LanguageModelTraining.from_dict(run.config).architecture
        if found != architecture:
            raise RunError(f"{run.path} has the architecture {found!r}; accepted: {architecture!r}, this preset's")
        model, tokenizer = load(run)
        variables = [ops.convert_to_numpy(variable) for variable in model.variables]
        digest = hashlib.sha256(b"".join(v.tobytes() for v in variables)).hexdigest()
        return cls(model.config, tokenizer, variables, digest)


def _train(
    config: LanguageModelTraining,
    data: reviews.Reviews,
    run: Run,
    schedule: loop.Schedule,
    distribution: Distribution,
    jit_compile: bool,
    start: Start | None,
) -> None:
    keras.config.set_dtype_policy(config.precision)
    with distribution.scope():
        model = build(config)
        if start:
            loop.assign(model.variables, start.variables)
        optimizer = _optimizer(config, model)
        # Keras runs JAX operation by operation without it.
        jit_compile = jit_compile or keras.backend.backend() == "jax"
        model.compile(optimizer=optimizer, loss=crossentropy, jit_compile=jit_compile)
        loss = loop.fit(
            run,
            model,
            lambda step: reviews.batch_of(data.train, step, config.batch_size, config.seed, data.padded),
            schedule if schedule.sample_every else replace(schedule, sample_every=_steps_per_epoch(config, data)),
            on_sample=lambda step: _write_samples(run, model, data.tokenizer, config, step),
            validate=lambda: _validate(model, data, config, evenly_spaced(data.validation, VALIDATION_ROWS)),
            tokens_per_step=config.batch_size * config.model.positions,
            train_step=distribution.train_step(model, token_losses),
        )
    best = run.checkpoints.load_best()
    assert best is not None
    loop.assign(model.variables, best[2])
    model.save_weights(run.weights)
    say(f"validating the best checkpoint, of step {best[0]}, on all {len(data.validation)} held-out rows")
    figures = {f"validation_{k}": v for k, v in _validate(model, data, config, data.validation).items()}
    run.finish({"loss": loss, **figures, "steps": schedule.steps, "best_step": best[0]})


def _optimizer(config: LanguageModelTraining, model: Model) -> keras.optimizers.Optimizer:
    return OPTIMIZERS[config.optimizer](
        model,
        learning_rate=config.learning_rate,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        beta_2=config.beta_2,
    )


def _steps_per_epoch(config: LanguageModelTraining, data: reviews.Reviews) -> int:
    return reviews.steps_per_epoch(data.train, config.batch_size)


def _validate(model: Model, data: reviews.Reviews, config: LanguageModelTraining, rows: np.ndarray) -> dict[str, float]:
    return validation_figures(model, data.tokenizer, rows, data.padded, config.batch_size)


def _write_samples(run: Run, model: Model, tokenizer: Tokenizer, config: LanguageModelTraining, step: int) -> None:
    """Continue the prompt at every temperature (listing 12-7), on ids, and keep the texts."""
    seeds = [config.seed] * len(config.temperatures)
    texts = continue_prompt(model, tokenizer, config.prompt, config.sample_words, config.temperatures, seeds)
    shown = "\n".join(f"== temperature {t}\n{text}" for t, text in zip(config.temperatures, texts, strict=True))
    (run.samples / f"step_{step:06d}.txt").write_text(shown + "\n")
    Console(stderr=True).print(f"step {step}\n{shown}", markup=False, highlight=False, soft_wrap=True)


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of `rows`."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def validation_figures(
    model: Model, tokenizer: Tokenizer, rows: np.ndarray, padded: bool, batch_size: int = 64
) -> dict[str, float]:
    """Measure the predictions of `rows` (as `Reviews` holds them): `loss` in nats, `perplexity` and `bits_per_byte`.

    The bytes are those of the predicted tokens; for byte pairs they are the bytes of the raw review.
    """
    total, count, length = 0.0, 0, 0
    batches = range(0, len(rows), batch_size)
    for start in followed(batches, "validating, batches", len(batches)):
        inputs, targets = reviews.inputs_and_targets(rows[start : start + batch_size], padded)
        total += float(ops.sum(token_losses(targets, model(inputs))))
        predicted = targets[targets >= 0]
        count += len(predicted)
        length += sum(len(tokenizer.token_bytes(token)) for token in predicted.tolist())
    return {
        "loss": total / count,
        "perplexity": math.exp(total / count),
        "bits_per_byte": total / math.log(2) / max(length, 1),
    }


def load(run: Run) -> tuple[Model, Tokenizer]:
    """Return the model of `run` in float32 with its tokenizer: the best checkpoint.

    A run that still trains gives its best checkpoint so far.

    Raises:
        RunError: the run has no weights and no checkpoint yet.
    """
    keras.config.set_dtype_policy("float32")
    model = build(LanguageModelTraining.from_dict(run.config))
    if run.weights.exists():
        model.load_weights(run.weights)
    else:
        best = run.checkpoints.load_best()
        if best is None:
            raise RunError(f"{run.path} has no weights yet; let it train to its first validation")
        loop.assign(model.variables, best[2])
    return model, load_tokenizer(run.path)


def validation_of(run: Run) -> dict[str, float]:
    """Return the validation figures of a finished run, or the best loss so far of one that still trains."""
    if run.finished:
        return {name: value for name, value in run.result.items() if name.startswith("validation_")}
    best = run.checkpoints.load_best()
    return {"validation_loss": best[1]} if best else {}


def scored(model: Model, tokenizer: Tokenizer) -> Scored:
    """Return `model` as `evaluate` takes it."""
    return Scored(
        tokenizer,
        model.config.positions,
        lambda inputs, targets: ops.convert_to_numpy(token_losses(targets, model(inputs))),
        partial(continue_prompt, model, tokenizer),
    )
