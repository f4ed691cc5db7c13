"""A training run on disk: configuration, metrics, samples, checkpoints, and the finished weights.

    runs/<kind>/<name>/
        config.json        what was asked for
        metrics.csv        one line every `log_every` steps; validation.csv likewise; events/ for TensorBoard
        samples/           texts or pictures made during training
        checkpoint.npz     model, optimiser and step; replaced atomically; enough for exact resume
        best.npz           the model at the lowest validation loss so far, with its step and loss
        model.weights.h5   the result
        result.json        written last: a run without it is unfinished

Knows nothing about models; variables are NumPy arrays here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RUNS = Path("runs")


class RunError(Exception):
    """A run cannot be found, resumed or read; the message says what to do."""


@dataclass(frozen=True)
class Run:
    """A run's folder; see the module's docstring for its files."""

    path: Path

    @classmethod
    def create(cls, kind: str, config: dict[str, Any], path: Path | None = None) -> Run:
        """Open `path` (default: a new folder under `runs/<kind>`) for `config`.

        Raises:
            RunError: the folder holds a run with another configuration.
        """
        run = cls(path or RUNS / kind / time.strftime("%Y%m%d-%H%M%S"))
        run.samples.mkdir(parents=True, exist_ok=True)
        if run._config.exists() and run.config != json.loads(json.dumps(config)):
            raise RunError(f"{run.path} was started with other settings; give another --run or the same settings")
        run._write_json(run._config, config)
        return run

    @classmethod
    def newest_finished(cls, kind: str, root: Path = RUNS) -> Run:
        """The run of `kind` that finished last.

        Raises:
            RunError: there is none.
        """
        finished = sorted((root / kind).glob("*/result.json"), key=lambda p: p.stat().st_mtime)
        if not finished:
            raise RunError(f"no finished {kind} run under {root / kind}; train one with 'reverie train'")
        return cls(finished[-1].parent)

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def weights(self) -> Path:
        return self.path / "model.weights.h5"

    @property
    def config(self) -> dict[str, Any]:
        if not self._config.exists():
            raise RunError(f"{self.path} is not a training run: it has no config.json")
        return json.loads(self._config.read_text())

    @property
    def result(self) -> dict[str, Any]:
        if not self._result.exists():
            raise RunError(f"{self.path} is not finished; resume it with the command that started it")
        return json.loads(self._result.read_text())

    @property
    def finished(self) -> bool:
        return self._result.exists()

    def save_checkpoint(self, step: int, variables: Sequence[np.ndarray]) -> None:
        """Replace the checkpoint; a kill at any instant leaves the old or the new one whole."""
        _write_variables(self._checkpoint, variables, step=np.int64(step))

    def load_checkpoint(self) -> tuple[int, list[np.ndarray]] | None:
        """Step and variables of the last checkpoint, or None for a run that has none."""
        found = _read_variables(self._checkpoint)
        return found and (int(found[0]["step"]), found[1])

    def save_best(self, step: int, loss: float, variables: Sequence[np.ndarray]) -> None:
        """Replace the best checkpoint, as atomically as the last one."""
        _write_variables(self._best, variables, step=np.int64(step), loss=np.float64(loss))

    def load_best(self) -> tuple[int, float, list[np.ndarray]] | None:
        """Step, validation loss and model variables of the best checkpoint, or None."""
        found = _read_variables(self._best)
        return found and (int(found[0]["step"]), float(found[0]["loss"]), found[1])

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run finished; `export` takes only finished runs."""
        self._write_json(self._result, result)

    @property
    def _config(self) -> Path:
        return self.path / "config.json"

    @property
    def _result(self) -> Path:
        return self.path / "result.json"

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.npz"

    @property
    def _best(self) -> Path:
        return self.path / "best.npz"

    @staticmethod
    def _write_json(path: Path, data: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data, indent=2) + "\n")
        temporary.replace(path)


def _write_variables(path: Path, variables: Sequence[np.ndarray], **facts: np.generic) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **facts, **{f"v{i}": v for i, v in enumerate(variables)})
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_variables(path: Path) -> tuple[dict[str, np.ndarray], list[np.ndarray]] | None:
    if not path.exists():
        return None
    with np.load(path) as data:
        facts = {name: data[name] for name in data.files if name in ("step", "loss")}
        return facts, [data[f"v{i}"] for i in range(len(data.files) - len(facts))]
