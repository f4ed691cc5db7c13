"""Raw response times of a load test and what is computed from them; knows nothing of locust or of the server.

Locust keeps rounded times (10 ms above 100 ms, 100 ms above 1 s), so percentiles come from here.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One finished request, or the first message of one.

    Attributes:
        name: an endpoint, or "<endpoint> first message".
        finished_s: when it ended, in seconds since the load began.
        milliseconds: from the call to the (first or last) answer.
        error: why it failed; empty if it did not.
    """

    name: str
    finished_s: float
    milliseconds: float
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """What one name's samples come to; percentiles are of successful requests, None where there is none."""

    requests: int
    failures: int
    requests_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, samples: Sequence[Sample], seconds: float) -> Measured:
        """Summarise `samples`, collected over `seconds` of load."""
        times = [s.milliseconds for s in samples if not s.error]
        p50, p95, p99 = (percentile(times, rank) for rank in (50, 95, 99))
        rate = len(samples) / seconds if seconds > 0 else 0.0
        return cls(len(samples), len(samples) - len(times), rate, p50, p95, p99)


def percentile(values: Sequence[float], rank: float) -> float | None:
    """The smallest value that at least `rank` percent of `values` do not exceed; None of no values.

    Always a value that occurred: interpolating would invent a p99 between two samples.
    """
    return float(np.percentile(values, rank, method="inverted_cdf")) if len(values) else None


class Samples:
    """Collects every sample of one load test; `record` is a listener of locust's `request` event."""

    def __init__(self) -> None:
        self._all: list[Sample] = []
        self._started = time.perf_counter()

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all)

    @property
    def seconds(self) -> float:
        """From the start to the last answer."""
        return max((s.finished_s for s in self._all), default=0.0)

    def record(self, name: str, response_time: float, exception: Exception | None = None, **_: Any) -> None:
        """Keep one request; `response_time` in milliseconds."""
        error = "" if exception is None else (str(exception) or type(exception).__name__)
        self._all.append(Sample(name, time.perf_counter() - self._started, response_time, error))

    def measured(self, names: Iterable[str]) -> dict[str, Measured]:
        """A summary for each of `names`, called or not."""
        return {name: Measured.of([s for s in self._all if s.name == name], self.seconds) for name in names}


def write_csv(folder: Path, samples: Samples, measured: dict[str, Measured]) -> None:
    """Write `stats.csv` (a summary a name), `failures.csv` (how often each error) and `samples.csv` (all)."""
    failures = Counter((s.name, s.error) for s in samples if s.error)
    _write_rows(
        folder / "stats.csv",
        ["name", *(f.name for f in fields(Measured))],
        ([name, *asdict(m).values()] for name, m in measured.items()),
    )
    _write_rows(
        folder / "failures.csv",
        ["name", "error", "occurrences"],
        ([*key, count] for key, count in failures.most_common()),
    )
    _write_rows(
        folder / "samples.csv",
        [f.name for f in fields(Sample)],
        (list(asdict(s).values()) for s in samples),
    )


def _write_rows(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
