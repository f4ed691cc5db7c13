"""What is computed from the calls of a load test; knows nothing of locust or of the server.

Percentiles are of raw times: locust keeps rounded ones (10 ms above 100 ms, 100 ms above 1 s).
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.calls import Call, Outcome
from loadtests.endpoints import ENDPOINTS, between_messages, first_message
from reverie import outputs


@dataclass(frozen=True)
class Measured:
    """What one name's calls, or times of its streams, come to.

    Attributes:
        requests: all that were due; of streams' times, how many there are.
        failures: requests without a whole answer: refused, dropped, or failed otherwise.
        refused, dropped: of them, refused by a busy server, and never sent.
        good: answers within the objective's bound on a single one.
        offered_per_s, achieved_per_s, goodput_per_s: requests, answers and good answers per second.
        p50_ms, p95_ms, p99_ms: of answered requests, from their scheduled time; None where there is none.
        refused_p99_ms: how long a refusal took.
        received_mib_per_s, megapixels_per_s: payload of answers, and size of resulting pictures.
    """

    requests: int = 0
    failures: int = 0
    refused: int = 0
    dropped: int = 0
    good: int = 0
    offered_per_s: float = 0.0
    achieved_per_s: float = 0.0
    goodput_per_s: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    refused_p99_ms: float | None = None
    received_mib_per_s: float = 0.0
    megapixels_per_s: float = 0.0

    @classmethod
    def of(
        cls, calls: Sequence[Call], offered_s: float, good_ms: float = math.inf, achieved_s: float | None = None
    ) -> Measured:
        """Summarize the calls of one endpoint.

        Args:
            calls: every request that was due.
            offered_s: for how long requests were due.
            good_ms: an answer within this is good.
            achieved_s: until the last answer; at least `offered_s`, which it is by default.
        """
        offered_s, achieved_s = max(offered_s, 1e-9), max(offered_s, achieved_s or 0.0, 1e-9)
        answered = [c for c in calls if c.outcome is Outcome.ANSWERED]
        refusals = [c.milliseconds for c in calls if c.outcome is Outcome.REFUSED]
        times = [c.milliseconds for c in answered]
        good = sum(t <= good_ms for t in times)
        return cls(
            requests=len(calls),
            failures=len(calls) - len(answered),
            refused=len(refusals),
            dropped=sum(c.outcome is Outcome.DROPPED for c in calls),
            good=good,
            offered_per_s=len(calls) / offered_s,
            achieved_per_s=len(answered) / achieved_s,
            goodput_per_s=good / achieved_s,
            refused_p99_ms=percentile(refusals, 99),
            received_mib_per_s=sum(c.received_bytes for c in answered) / 2**20 / achieved_s,
            megapixels_per_s=sum(c.pixels for c in answered) / 1e6 / achieved_s,
            **_percentiles(times),
        )

    @classmethod
    def of_times(cls, milliseconds: Sequence[float], seconds: float, good_ms: float = math.inf) -> Measured:
        """Summarize times within answers: to first messages, or between messages."""
        count, seconds = len(milliseconds), max(seconds, 1e-9)
        good = sum(t <= good_ms for t in milliseconds)
        per_s = count / seconds
        return cls(
            requests=count,
            good=good,
            offered_per_s=per_s,
            achieved_per_s=per_s,
            goodput_per_s=good / seconds,
            **_percentiles(milliseconds),
        )

    def rounded(self) -> dict[str, Any]:
        """Return its values for a line of JSON, without what does not apply or did not happen (None, 0)."""
        present = {k: v for k, v in asdict(self).items() if v or k in ("requests", "failures", "p95_ms")}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in present.items()}


def _percentiles(times: Sequence[float]) -> dict[str, Any]:
    return {f"p{rank}_ms": percentile(times, rank) for rank in (50, 95, 99)}


def percentile(values: Sequence[float], rank: float) -> float | None:
    """Return the smallest value that at least `rank` percent of `values` do not exceed; None of no values.

    Always a value that occurred: interpolating would invent a p99 between two samples.
    """
    return float(np.percentile(values, rank, method="inverted_cdf")) if len(values) else None


def times_of(name: str, calls: Iterable[Call]) -> list[float]:
    """Return the times recorded under `name`, in milliseconds; of whole requests only the answered ones."""
    for endpoint in ENDPOINTS:
        own = (c for c in calls if c.endpoint == endpoint)
        if name == endpoint:
            return [c.milliseconds for c in own if c.outcome is Outcome.ANSWERED]
        if name == first_message(endpoint):
            return [c.first_message_ms for c in own if c.first_message_ms is not None]
        if name == between_messages(endpoint):
            return [gap for c in own for gap in c.between_messages_ms]
    raise KeyError(f"{name}: no times are recorded under this name")


def measure(
    calls: Sequence[Call], names: Iterable[str], offered_s: float, good_ms: Mapping[str, float] | None = None
) -> dict[str, Measured]:
    """Summarize the calls of each of `names`, called or not.

    Args:
        offered_s: for how long requests were due; answers may come later.
        good_ms: by name, within how long an answer is good; a name without one has only good answers.
    """
    good_ms = good_ms or {}
    achieved_s = max([offered_s, *(c.finished_s for c in calls)])
    summaries = {}
    for name in names:
        bound = good_ms.get(name, math.inf)
        if name in ENDPOINTS:
            own = [c for c in calls if c.endpoint == name]
            summaries[name] = Measured.of(own, offered_s, bound, achieved_s)
        else:
            summaries[name] = Measured.of_times(times_of(name, calls), achieved_s, bound)
    return summaries


def write_csv(folder: Path, calls: Sequence[Call], measured: Mapping[str, Measured], mix: str) -> None:
    """Write `stats.csv` (a summary a name), `failures.csv` (how often each error) and `calls.csv` (all).

    Args:
        mix: the name of what was asked, a column of `calls.csv`; see `loadtests.mix.Mix`.
    """
    failures = Counter((c.endpoint, c.error) for c in calls if c.error)
    _write_rows(
        folder / "stats.csv",
        ["name", *(f.name for f in fields(Measured))],
        ([name, *asdict(m).values()] for name, m in measured.items()),
    )
    _write_rows(
        folder / "failures.csv",
        ["endpoint", "error", "occurrences"],
        ([*key, count] for key, count in failures.most_common()),
    )
    columns = ("endpoint", "scheduled_s", "started_s", "finished_s", "received_bytes", "pixels", "error", "seed")
    derived = ("milliseconds", "first_message_ms")
    _write_rows(
        folder / "calls.csv",
        [*columns, *derived, "messages", "mix"],
        ([*(getattr(c, n) for n in (*columns, *derived)), len(c.message_s), mix] for c in calls),
    )


def _write_rows(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with outputs.replacing(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
