"""Metrics of a run as CSV and for TensorBoard (`tensorboard --logdir runs`)."""

from __future__ import annotations

import csv
from pathlib import Path

from tensorboard.summary import Writer


class MetricsLog:
    """Appends one line per call to `<folder>/<name>.csv` and one point per value to `<folder>/events`.

    Args:
        resumed_at: lines of later steps are dropped: a run that was killed after its last checkpoint
            takes those steps again.
    """

    def __init__(self, folder: Path, name: str, resumed_at: int):
        self._path = folder / f"{name}.csv"
        self._name = name
        self._writer = Writer(str(folder / "events"))
        if self._path.exists():
            self._drop_after(resumed_at)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line; the first fixes the columns."""
        is_new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        for name, value in values.items():
            self._writer.add_scalar(f"{self._name}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def has(self, step: int) -> bool:
        """Return whether there is a line of `step`."""
        return any(int(line["step"]) == step for line in self._lines())

    def last(self, column: str) -> float:
        """Return the newest value of `column`; NaN where there is no line."""
        lines = self._lines()
        return float(lines[-1][column]) if lines else float("nan")

    def _lines(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _drop_after(self, step: int) -> None:
        header, *lines = self._path.read_text().splitlines()
        kept = [line for line in lines if int(line.split(",")[0]) <= step]
        self._path.write_text("\n".join([header, *kept]) + "\n")
