"""A counter whose values somebody else keeps: they are asked for when the metrics are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

Source = Callable[[], Mapping[str, float]]
"""Returns counts by the value of the label."""


class SampledCounter(Collector):
    """The sum of what its sources count, by the values of one label.

    Args:
        name: without `_total`.
        meaning: what is counted.
        label: its name.
    """

    def __init__(self, name: str, meaning: str, label: str, registry: CollectorRegistry):
        self._name, self._meaning, self._label = name, meaning, label
        self._sources: list[Source] = []
        registry.register(self)

    def add(self, source: Source) -> None:
        """Ask `source` too, from now on."""
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        """Ask `source` no longer; does nothing where it is none."""
        if source in self._sources:
            self._sources.remove(source)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """prometheus_client's: the present values."""
        total: Counter[str] = Counter()
        for source in tuple(self._sources):
            total.update(source())
        family = CounterMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, count in sorted(total.items()):
            family.add_metric([value], count)
        yield family
