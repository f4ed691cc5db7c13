"""The training loop that every run shares: resume, log, sample, checkpoint, progress.

A batch is a function of the step alone, so a run that was killed continues exactly where its last
checkpoint left it and ends with the weights of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from reverie.errors import ToolkitError
from training.logs import MetricsLog
from training.runs import Run, RunError
from training.signals import StopSignals

Batch = tuple[Any, ...]


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to look, in steps.

    Attributes:
        steps: batches in the whole run.
        log_every: a line in metrics.csv and in the progress.
        sample_every: a call of `on_sample`; None for once an epoch, where the training has epochs.
        checkpoint_every: a resumable checkpoint.
        validate_every: a call of `validate`, and the best checkpoint if its loss is the lowest.
    """

    steps: int
    log_every: int = 20
    sample_every: int | None = 500
    checkpoint_every: int = 500
    validate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "sample_every", "checkpoint_every", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; accepted: 1 or more")


def warmup_cosine(peak: float, steps: int, warmup: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a learning rate that rises linearly to `peak` in `warmup` steps, then falls as a cosine to 0 at `steps`."""
    warmup = min(warmup, max(1, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0, decay_steps=max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup
    )


def fit(
    run: Run,
    model: keras.Model,
    batch_at: Callable[[int], Batch],
    schedule: Schedule,
    on_sample: Callable[[int], None] = lambda step: None,
    validate: Callable[[], dict[str, float]] | None = None,
    tokens_per_step: int = 0,
    train_step: Callable[..., float] | None = None,
) -> float:
    """Train a compiled `model` from its last checkpoint to `schedule.steps`.

    Args:
        run: where metrics and checkpoints go.
        model: compiled; its state is replaced by the checkpoint's where there is one.
        batch_at: step to the arguments of `train_on_batch`; must depend on nothing else.
        on_sample: called with the step to write texts or pictures.
        validate: measures held-out data; its "loss" decides which checkpoint is the best.
        tokens_per_step: where given, the progress and the logs show tokens a second.
        train_step: takes a batch to its loss; default `model.train_on_batch`.

    Returns:
        The mean loss over the last `log_every` steps.

    Raises:
        RunError: the loss became NaN or infinite; no checkpoint is written of it.
        TrainingStopped: Ctrl-C or SIGTERM; the checkpoint is of the last step.
    """
    fitting = _Fitting(run, model, schedule, on_sample, validate)
    step = fitting.begun_at
    train_step = train_step or (lambda *batch: _train_on_batch(model, batch))
    signals = StopSignals()
    with (
        signals.caught(),
        fitting.logging(),
        Reporter(run.path.name, step, schedule.steps, tokens_per_step) as reporter,
    ):
        try:
            fitting.catch_up(reporter)
            while step < schedule.steps:
                batch = batch_at(step)
                with signals.held_back():
                    loss = train_step(*batch)
                    step += 1
                    fitting.took(step, loss)
                reporter.advance(step)
                fitting.look(step, reporter)
        except KeyboardInterrupt:
            with signals.held_back():
                fitting.save(step)
            raise TrainingStopped(
                f"stopped at step {step} of {schedule.steps}; to continue, run the same command with --run {run.path}"
            ) from None
    return fitting.last_loss


class TrainingStopped(ToolkitError):
    """A signal ended a training; its checkpoint is saved, and the message says how to continue."""

    exit_status = 130


class _Fitting:
    """What happens beside the steps of a run: logs, validation, checkpoints, samples.

    Attributes:
        begun_at: the checkpoint's step, 0 without one.
        last_loss: the mean over the steps since the last line of the log.
    """

    def __init__(
        self,
        run: Run,
        model: keras.Model,
        schedule: Schedule,
        on_sample: Callable[[int], None],
        validate: Callable[[], dict[str, float]] | None,
    ):
        self._run, self._model, self._schedule = run, model, schedule
        self._on_sample, self._validate = on_sample, validate
        self._losses: list[float] = []
        self._saved_at = self.begun_at = restore(run, model)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """The logs are open while this block runs; what they held of later steps is dropped."""
        with ExitStack() as logs:
            self._metrics, self._validation = (
                logs.enter_context(closing(MetricsLog(self._run.path, name, resumed_at=self.begun_at)))
                for name in ("metrics", "validation")
            )
            self.last_loss = self._metrics.last("loss")
            yield

    def took(self, step: int, loss: float) -> None:
        """Keep the loss of a step that has been taken.

        Raises:
            RunError: its loss is NaN or infinite.
        """
        if not np.isfinite(loss):
            raise RunError(
                f"{self._run.path}: the loss became {loss} at step {step}; start a run with a lower learning rate"
            )
        self._losses.append(loss)

    def look(self, step: int, reporter: Reporter) -> None:
        """Do what is due after `step`: log, validate, checkpoint, sample."""
        schedule, at_end = self._schedule, step == self._schedule.steps
        if step == 1 or step % schedule.log_every == 0 or at_end:
            self.last_loss = float(np.mean(self._losses))
            self._losses.clear()
            self._metrics.write(step, {"loss": self.last_loss} | reporter.report(step, self.last_loss))
        if step % schedule.validate_every == 0 or at_end:
            self._measure(step, reporter)
        if step % schedule.checkpoint_every == 0 or at_end:
            self.save(step)
        if at_end or (schedule.sample_every and step % schedule.sample_every == 0):
            self._on_sample(step)

    def catch_up(self, reporter: Reporter) -> None:
        """Measure what a stop at the checkpoint's step has left unmeasured."""
        step = self.begun_at
        is_due = step % self._schedule.validate_every == 0 or step == self._schedule.steps
        if step and is_due and not self._validation.has(step):
            self._measure(step, reporter)

    def save(self, step: int) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if step != self._saved_at:
            self._run.checkpoints.save(step, _values(_variables(self._model)))
            self._saved_at = step

    def _measure(self, step: int, reporter: Reporter) -> None:
        if self._validate:
            measured = self._validate()
            _keep_best(self._run, self._model, step, measured["loss"])
            self._validation.write(step, measured)
            reporter.note(f"step {step}: validation " + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()))


def _train_on_batch(model: keras.Model, batch: Batch) -> float:
    loss = float(np.asarray(model.train_on_batch(*batch)).ravel()[0])
    model.reset_metrics()
    return loss


def restore(run: Run, model: keras.Model) -> int:
    """Set `model` and its optimizer to the run's checkpoint; returns the step (0 without one)."""
    model.optimizer.build(model.trainable_variables)
    checkpoint = run.checkpoints.load()
    if checkpoint is None:
        return 0
    step, values = checkpoint
    assign(_variables(model), values)
    return step


def assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Set every variable to its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _keep_best(run: Run, model: keras.Model, step: int, loss: float) -> None:
    best = run.checkpoints.load_best()
    if best is None or loss < best[1]:
        run.checkpoints.save_best(step, loss, _values(model.variables))


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Everything a step changes: weights, random states, optimizer slots; the model's come first."""
    return [*model.variables, *model.optimizer.variables]


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in variables]


class Reporter:
    """Shows progress, loss, throughput and the time left: a bar on a terminal, lines in a log file.

    Args:
        name: of the run.
        step, steps: where it starts and ends.
        tokens_per_step: 0 where the batches hold no tokens.
    """

    def __init__(self, name: str, step: int, steps: int, tokens_per_step: int = 0):
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[report]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=steps, completed=step, report="")
        self._steps, self._tokens_per_step = steps, tokens_per_step
        self._reported, self._since = step, time.monotonic()

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def report(self, step: int, loss: float) -> dict[str, float]:
        """Show the loss and the pace since the last report; returns the pace for the logs."""
        now = time.monotonic()
        rate = (step - self._reported) / max(now - self._since, 1e-9)
        self._reported, self._since = step, now
        pace = {"steps_per_second": rate}
        if self._tokens_per_step:
            pace["tokens_per_second"] = rate * self._tokens_per_step
        left = timedelta(seconds=round((self._steps - step) / rate))
        shown = f"{pace['tokens_per_second']:,.0f} token/s" if self._tokens_per_step else f"{rate:.2f} step/s"
        line = f"loss {loss:.4f}  {shown}  {left} left"
        self._progress.update(self._task, report=line)
        if not self._console.is_terminal:
            self.note(f"step {step}/{self._steps}  {line}")
        return pace

    def note(self, line: str) -> None:
        """Print a line beside the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
