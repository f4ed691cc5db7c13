"""What an export produces, and its way into the repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.parity import Parity
from export.repository import Repository
from training.runs import Run


@dataclass(frozen=True)
class Exported:
    """A version that is ready to publish.

    Attributes:
        model: name of the ONNX model.
        dependents: the Python models that must be reloaded after it.
        configuration: text of its config.pbtxt.
        parity: how far the graph is from Keras.
        measured: what else was measured, for export.json.
    """

    model: str
    dependents: tuple[str, ...]
    configuration: str
    parity: Parity
    measured: dict[str, Any] = field(default_factory=dict)


def publish(run: Run, export: Callable[[Run, Path], Exported], repository: Repository) -> tuple[Exported, int]:
    """Export `run` into a staging folder, check it, and publish it as the next version.

    Whatever fails, the repository stays as it was.

    Raises:
        RunError: the run is not finished.
        ParityError: see `export.parity`.
    """
    result = run.result
    staging = repository.staging()
    try:
        files = staging / "version"
        files.mkdir()
        exported = export(run, files)
        record = {"run": run.path.name, "result": result, "parity": asdict(exported.parity), **exported.measured}
        (files / "export.json").write_text(json.dumps(record, indent=2) + "\n")
        repository.write_configuration(exported.model, exported.configuration)
        return exported, repository.publish(exported.model, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
