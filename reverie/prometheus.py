"""Metrics in the Prometheus text format, read by prometheus_client. Knows nothing of what is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def read_samples(text: str) -> Iterator[Sample]:
    """Yield every sample of `text`; the names of counters come without `_total`.

    Triton's counters do not end in `_total`, and prometheus_client adds it to those that do not.

    Raises:
        ValueError: `text` is not in the Prometheus text format.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            is_counter = family.type == "counter"
            yield sample._replace(name=sample.name.removesuffix("_total")) if is_counter else sample


@dataclass(frozen=True)
class Snapshot:
    """All samples at one moment, or what was added between two.

    Attributes:
        values: by name and labels.
    """

    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def read(cls, text: str) -> Snapshot:
        """Read metrics; names as `read_samples` gives them.

        Raises:
            ValueError: `text` is not in the Prometheus text format.
        """
        return cls({(s.name, frozenset(s.labels.items())): s.value for s in read_samples(text)})

    def since(self, earlier: Snapshot) -> Snapshot:
        """Return what was added to counters and histograms; one that was reset in between counts from 0."""

        def added(key: tuple[str, frozenset[tuple[str, str]]], value: float) -> float:
            before = earlier.values.get(key, 0.0)
            return value - before if value >= before else value

        return Snapshot({key: added(key, value) for key, value in self.values.items()})

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels; 0 where there is none."""
        return sum(self._matching(name, labels).values())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of the samples with these labels, by the value of another label."""
        sums: dict[str, float] = {}
        for found, value in self._matching(name, labels).items():
            key = dict(found).get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """Return the upper bounds of a histogram, the last one infinite, and how many observations were no larger."""
        return sorted((float(le), count) for le, count in self.by("le", f"{name}_bucket", **labels).items())

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Return a quantile of a histogram as Prometheus' `histogram_quantile` does; None where nothing was observed."""
        buckets = self.buckets(name, **labels)
        return _quantile(q, buckets) if buckets and buckets[-1][1] > 0 else None

    def _matching(self, name: str, labels: Mapping[str, str]) -> dict[frozenset[tuple[str, str]], float]:
        wanted = labels.items()
        return {found: value for (n, found), value in self.values.items() if n == name and wanted <= found}


def _quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Between the bounds of a bucket by a straight line; above the last finite bound, that bound.

    Args:
        buckets: upper bounds, the last one infinite, and how many observations were no larger; at least one was.
    """
    rank = q * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower
