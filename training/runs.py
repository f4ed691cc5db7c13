"""A training run on disk: configuration, metrics, samples, checkpoints, and the finished weights.

    runs/<kind>/<name>/
        config.json        what was asked for, and digests of what it was asked with
        inputs.json        where that was: the command continues without being told again
        metrics.csv        one line every `log_every` steps; validation.csv likewise; events/ for TensorBoard
        samples/           texts or pictures made during training
        checkpoint.npz     model, optimizer and step; replaced atomically; enough for exact resume
        best.npz           the model at the lowest validation loss so far, with its step and loss
        model.weights.h5   the result
        result.json        written last: a run without it is unfinished

Knows nothing about models.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.errors import ToolkitError
from training import files
from training.checkpoints import Checkpoints

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
        _write_json(run._config, config)
        return run

    @classmethod
    def at(cls, kind: str, path: Path | None) -> Run:
        """Return the run at `path`, started or not; by default in a new folder under `runs/<kind>`."""
        return cls(path or _new_folder(kind))

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._config.exists()

    @classmethod
    def newest_finished(cls, kind: str, root: Path = RUNS) -> Run:
        """Return the run of `kind` that finished last.

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
    def inputs(self) -> RunInputs:
        """Where the run's data are."""
        return RunInputs(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """What the run can be resumed from."""
        return Checkpoints(self.path)

    @property
    def result(self) -> dict[str, Any]:
        if not self._result.exists():
            raise RunError(f"{self.path} is not finished; continue it with 'reverie train' and --run {self.path}")
        return json.loads(self._result.read_text())

    @property
    def finished(self) -> bool:
        return self._result.exists()

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run finished; `export` takes only finished runs."""
        _write_json(self._result, result)

    @property
    def _config(self) -> Path:
        return _config_file(self.path)

    @property
    def _result(self) -> Path:
        return self.path / "result.json"


@dataclass(frozen=True)
class RunInputs:
    """Where a run's data are, in `inputs.json`: the command need not be told again when it continues."""

    folder: Path

    def get(self, name: str, default: Any = None) -> Any:
        """Return one input as JSON holds it; `default` where the run does not say."""
        return json.loads(self._file.read_text()).get(name, default) if self._file.exists() else default

    def path(self, name: str) -> Path | None:
        """Return one input that is a path, or None where the run does not say."""
        return Path(found) if (found := self.get(name)) else None

    def paths(self, name: str) -> list[Path]:
        """Return one input that is a list of paths."""
        return [Path(found) for found in self.get(name, ())]

    def remember(self, inputs: dict[str, Any]) -> None:
        """Keep `inputs`; a run that was started keeps what it has."""
        if not _config_file(self.folder).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_json(self._file, json.loads(json.dumps(inputs, default=_absolute)))

    @property
    def _file(self) -> Path:
        return self.folder / "inputs.json"


def _config_file(folder: Path) -> Path:
    return folder / "config.json"


def _write_json(path: Path, data: dict[str, Any]) -> None:
    with files.replacing(path) as file:
        file.write((json.dumps(data, indent=2) + "\n").encode())
