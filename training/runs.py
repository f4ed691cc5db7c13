"""A training run on disk: configuration, metrics, samples, checkpoints, and the finished weights.

    runs/<kind>/<name>/
        config.json        what was asked for, and digests of what it was asked with
        inputs.json        where that was: the command goes on from there without being told again
        metrics.csv        one line every `log_every` steps; validation.csv likewise; events/ for TensorBoard
        samples/           texts or pictures made during training
        checkpoint.npz     model, optimizer and step; replaced atomically; enough for exact resume
        best.npz           the model at the lowest validation loss so far, with its step and loss
        model.weights.h5   the result
        result.json        written last: a run without it is unfinished

Knows nothing about models; variables are NumPy arrays here.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reverie.errors import ToolkitError
from training import files

RUNS = Path("runs")


class RunError(ToolkitError):
    """A run cannot be found, resumed or read; the message says what to do."""


def check_same(run: Run, config: dict[str, Any]) -> None:
    """Raise RunError that names what differs, unless `config` is the run's."""
    was, now = (dict(_flat(settings)) for settings in (run.config, config))
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        shown = "; ".join(f"{name} is {_shown(was.get(name))} there and {_shown(now.get(name))} here" for name in names)
        raise RunError(
            f"{run.path} was started with other settings: {shown}. Give another --run, or leave out what differs"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _absolute(path: Path) -> str:
    """The command may be given again in another folder."""
    return str(path.absolute())


def _shown(value: Any) -> str:
    """A digest by its beginning."""
    text = "not given" if value is None else str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _new_folder(kind: str) -> Path:
    """Named by the time; two runs of one second get two folders."""
    folder = RUNS / kind / time.strftime("%Y%m%d-%H%M%S")
    others = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], others) if not path.exists())


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
        run = cls.at(kind, path)
        if run.exists:
            check_same(run, json.loads(json.dumps(config)))
        run.samples.mkdir(parents=True, exist_ok=True)
        run._write_json(run._config, config)
        return run

    @classmethod
    def at(cls, kind: str, path: Path | None) -> Run:
        """The run at `path`, begun or not; by default in a new folder under `runs/<kind>`."""
        return cls(path or _new_folder(kind))

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._config.exists()

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
    def inputs(self) -> dict[str, Any]:
        """Where the run's data were; empty for one that does not say."""
        return json.loads(self._inputs.read_text()) if self._inputs.exists() else {}

    def input_path(self, name: str) -> Path | None:
        """One of `inputs` that is a path, or None where it is not known."""
        return Path(found) if (found := self.inputs.get(name)) else None

    def input_paths(self, name: str) -> list[Path]:
        """One of `inputs` that are paths."""
        return [Path(found) for found in self.inputs.get(name, ())]

    def remember(self, inputs: dict[str, Any]) -> None:
        """Keep where the run's data are, for `inputs`; what a run that was begun knows stays."""
        if not self.exists:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_json(self._inputs, json.loads(json.dumps(inputs, default=_absolute)))

    @property
    def result(self) -> dict[str, Any]:
        if not self._result.exists():
            raise RunError(f"{self.path} is not finished; go on with 'reverie train' and --run {self.path}")
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
    def _inputs(self) -> Path:
        return self.path / "inputs.json"

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
        with files.replacing(path) as file:
            file.write((json.dumps(data, indent=2) + "\n").encode())


def _write_variables(path: Path, variables: Sequence[np.ndarray], **facts: Any) -> None:
    files.save_arrays(path, {**facts, **{f"v{i}": v for i, v in enumerate(variables)}})


def _read_variables(path: Path) -> tuple[dict[str, np.ndarray], list[np.ndarray]] | None:
    if not path.exists():
        return None
    with np.load(path) as data:
        facts = {name: data[name] for name in data.files if name in ("step", "loss")}
        return facts, [data[f"v{i}"] for i in range(len(data.files) - len(facts))]
