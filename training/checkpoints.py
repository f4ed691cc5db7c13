"""The checkpoints of a run: its last state and its best model, each a file that is replaced as a whole.

Knows nothing about models; variables are NumPy arrays here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import files


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run's folder: `checkpoint.npz`, the last one, and `best.npz`."""

    folder: Path

    def save(self, step: int, variables: Sequence[np.ndarray]) -> None:
        """Replace the last checkpoint. A kill at any instant leaves the old or the new one whole."""
        _write_variables(self._last, variables, step=np.int64(step))

    def load(self) -> tuple[int, list[np.ndarray]] | None:
        """Return the step and the variables of the last checkpoint, or None where there is none."""
        found = _read_variables(self._last)
        return found and (int(found[0]["step"]), found[1])

    def save_best(self, step: int, loss: float, variables: Sequence[np.ndarray]) -> None:
        """Replace the best checkpoint, as atomically as the last one."""
        _write_variables(self._best, variables, step=np.int64(step), loss=np.float64(loss))

    def load_best(self) -> tuple[int, float, list[np.ndarray]] | None:
        """Return the step, the validation loss and the model's variables of the best checkpoint, or None."""
        found = _read_variables(self._best)
        return found and (int(found[0]["step"]), float(found[0]["loss"]), found[1])

    @property
    def _last(self) -> Path:
        return self.folder / "checkpoint.npz"

    @property
    def _best(self) -> Path:
        return self.folder / "best.npz"


def _write_variables(path: Path, variables: Sequence[np.ndarray], **facts: Any) -> None:
    files.save_arrays(path, {**facts, **{f"v{i}": v for i, v in enumerate(variables)}})


def _read_variables(path: Path) -> tuple[dict[str, np.ndarray], list[np.ndarray]] | None:
    if not path.exists():
        return None
    with np.load(path) as data:
        facts = {name: data[name] for name in data.files if name in ("step", "loss")}
        return facts, [data[f"v{i}"] for i in range(len(data.files) - len(facts))]
