"""What an export produces: a staged version with its manifest and its recorded answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from registry import golden, manifest
from registry.model_configuration import ModelConfiguration
from registry.repository import Repository
from reverie.progress import say


class FinishedRun(Protocol):
    """A training run, as far as a version says where it is from."""

    @property
    def path(self) -> Path: ...

    @property
    def result(self) -> Mapping[str, Any]:
        """What it reached."""


RunT = TypeVar("RunT", bound=FinishedRun)


@dataclass(frozen=True)
class Parity:
    """Measured differences between a graph and the model that it was made from.

    Attributes:
        largest: of any element; mean: over all elements.
        inputs: how many inputs were compared.
    """

    largest: float
    mean: float
    unit: str
    inputs: int


@dataclass(frozen=True)
class ExportResult:
    """A version that is ready to publish.

    Attributes:
        model: name of the ONNX model.
        configuration: the description of its config.pbtxt.
        parity: how far the graph is from Keras.
        measured: what else was measured, for the manifest.
        recorded: inputs of model.onnx whose answer is kept for smoke tests; drawn at random if none are given.
    """

    model: str
    configuration: ModelConfiguration
    parity: Parity
    measured: dict[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class StagedVersion:
    """An exported version's files, outside the repository on its file system."""

    exported: ExportResult
    files: Path


@contextlib.contextmanager
def stage(
    run: RunT, export: Callable[[RunT, Path], ExportResult], repository: Repository, model: str
) -> Iterator[StagedVersion]:
    """Export `run`, a version of `model`, into a staging folder and check it; the folder is gone afterwards, unless it was published.

    Whatever fails, the repository stays as it was.

    Raises:
        ToolkitError: what reading the run or `export` raises.
    """
    result = run.result
    with repository.staged(model) as folder:
        files = folder / "version"
        files.mkdir()
        exported = export(run, files)
        say(f"{exported.model}: recording answers")
        golden.record(files, exported.configuration, exported.recorded)
        described = manifest.describe(
            files,
            exported.model,
            run.path,
            asdict(exported.parity),
            result,
            exported.measured,
            exported.configuration.facts,
        )
        described.write(files)
        yield StagedVersion(exported, files)
