"""Metrics in the Prometheus text format, read by prometheus_client. Knows nothing of what is measured."""

from __future__ import annotations

from collections.abc import Iterator

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
