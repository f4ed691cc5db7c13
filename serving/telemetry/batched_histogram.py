"""A histogram for what happens thousands of times a second: observations are kept, and counted together.

prometheus_client's own takes 5 to 15 microseconds for each in its multi-process mode, which is a message's whole
budget.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, values
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

_AT_ONCE = 64
"""Observations that are kept before they are counted."""


class BatchedHistogram:
    """As `prometheus_client.Histogram`, but what was observed last is seen only after `flush`.

    Args:
        buckets: upper bounds, rising; +Inf is added.
    """

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ):
        self.name, self.meaning, self.label_names = name, meaning, tuple(labels)
        self.bounds = (*buckets, float("inf"))
        self._children: dict[tuple[str, ...], BatchedHistogramChild] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def labels(self, *label_values: str) -> BatchedHistogramChild:
        """Return the histogram of these values of the labels."""
        with self._lock:
            if label_values not in self._children:
                self._children[label_values] = BatchedHistogramChild(self, label_values)
            return self._children[label_values]

    def describe(self) -> Iterator[Metric]:
        """Yield the metric without samples, as a registry asks for it."""
        yield HistogramMetricFamily(self.name, self.meaning, labels=self.label_names)

    def collect(self) -> Iterator[Metric]:
        """Yield this process's values; of several processes, the exporter reads them from their files."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.label_names)
        for label_values, child in list(self._children.items()):
            buckets, total = child.read()
            family.add_metric(label_values, buckets, total)
        yield family


class BatchedHistogramChild:
    """One histogram; safe to use from many threads."""

    def __init__(self, histogram: BatchedHistogram, label_values: tuple[str, ...]):
        self._bounds = histogram.bounds
        self._kept: list[float] = []
        self._lock = threading.Lock()
        name, label_names, meaning = histogram.name, histogram.label_names, histogram.meaning
        self._sum = values.ValueClass("histogram", name, f"{name}_sum", label_names, label_values, meaning)
        self._buckets = [
            values.ValueClass(
                "histogram",
                name,
                f"{name}_bucket",
                (*label_names, "le"),
                (*label_values, floatToGoString(bound)),
                meaning,
            )
            for bound in self._bounds
        ]

    def observe(self, value: float) -> None:
        """Keep a value, and count what was kept once it is enough."""
        self._kept.append(value)
        if len(self._kept) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Count what was kept."""
        with self._lock:
            kept, self._kept = self._kept, []
            if not kept:
                return
            self._sum.inc(sum(kept))
            for index, count in Counter(bisect_left(self._bounds, value) for value in kept).items():
                self._buckets[index].inc(count)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return the counts up to each bound, and the sum of all values."""
        self.flush()
        with self._lock:
            counts, total = [], 0.0
            for bound, bucket in zip(self._bounds, self._buckets, strict=True):
                total += bucket.get()
                counts.append((floatToGoString(bound), total))
            return counts, self._sum.get()
