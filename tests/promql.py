"""Evaluates the alert rules on recorded scrapes, as Prometheus does, where no Prometheus is at hand.

promql_parser reads the expressions; what the rules use is evaluated here (selectors, rate, increase, sum and max by,
histogram_quantile, arithmetic, comparisons, `or`), and all else is refused. `alert_rules` has it
evaluate rules, and Prometheus itself where that is at hand. Knows nothing of what the metrics mean.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import promql_parser as ast
from prometheus_client.parser import text_string_to_metric_families

from reverie.prometheus import Snapshot

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
"""One value a series; without a name, except right from a selector, where `__name__` is a label."""

LOOKBACK_S = 300.0
"""How old the last scrape may be."""


@dataclass(frozen=True)
class Scrape:
    """All samples at `at` seconds; none where nobody answered, but `up`."""

    at: float
    samples: Vector

    @functools.cached_property
    def by_name(self) -> Mapping[str, Vector]:
        """The samples of each name."""
        found: dict[str, Vector] = {}
        for series, value in self.samples.items():
            found.setdefault(dict(series)["__name__"], {})[series] = value
        return found

    @classmethod
    def read(cls, at: float, text: str | None, target: Mapping[str, str]) -> Scrape:
        """Read `/metrics`, or None for no answer, as Prometheus does of a target with these labels."""
        samples = {_series("up", target): float(text is not None)}
        for family in text_string_to_metric_families(text or ""):
            for sample in family.samples:
                # The parser adds `_total` to counters; Triton's have none.
                name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
                samples[_series(name, {**sample.labels, **target})] = sample.value
        return cls(at, samples)


def _series(name: str, labels: Mapping[str, str]) -> Labels:
    return frozenset({"__name__": name, **labels}.items())


@dataclass
class Recording:
    """Scrapes of one target in the order of their times."""

    target: Mapping[str, str] = field(default_factory=lambda: {"job": "reverie", "instance": "reverie:8002"})
    scrapes: list[Scrape] = field(default_factory=list)

    def add(self, at: float, text: str | None) -> None:
        """Record what was answered at `at` seconds; None for no answer."""
        self.scrapes.append(Scrape.read(at, text, self.target))

    def at(self, instant: float, name: str) -> Vector:
        """Return what the last scrape has of a name; a series that it has not is stale."""
        seen = [scrape for scrape in self.scrapes if instant - LOOKBACK_S < scrape.at <= instant]
        return seen[-1].by_name.get(name, {}) if seen else {}

    def within(self, instant: float, seconds: float, name: str) -> dict[Labels, list[tuple[float, float]]]:
        """Return the samples of a name in the last `seconds`, by series."""
        found: dict[Labels, list[tuple[float, float]]] = {}
        for scrape in self.scrapes:
            if instant - seconds < scrape.at <= instant:
                for series, value in scrape.by_name.get(name, {}).items():
                    found.setdefault(series, []).append((scrape.at, value))
        return found


def evaluate(expression: str, recording: Recording, instant: float) -> Vector:
    """Return the value of an expression at `instant` seconds.

    Raises:
        ValueError: it is no PromQL, or uses what this evaluator does not know.
    """
    value = _Evaluation(recording, instant).of(_parsed(expression))
    if not isinstance(value, dict):
        raise ValueError(f"{expression}: is a number; accepted: a vector")
    return {_without_name(labels): found for labels, found in value.items()}


@functools.cache
def _parsed(expression: str) -> ast.Expr:
    return ast.parse(expression)


def _without_name(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != "__name__")


_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "Equal": operator.eq,
    "NotEqual": operator.ne,
    "Re": lambda value, pattern: re.fullmatch(pattern, value) is not None,
    "NotRe": lambda value, pattern: re.fullmatch(pattern, value) is None,
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else float("nan") if a == 0 else float("inf"),
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {"sum": sum, "max": max}


@dataclass(frozen=True)
class _Evaluation:
    recording: Recording
    instant: float

    def of(self, node: Any) -> Vector | float:
        kinds: dict[type, Callable[[Any], Vector | float]] = {
            ast.NumberLiteral: lambda n: float(n.val),
            ast.ParenExpr: lambda n: self.of(n.expr),
            ast.VectorSelector: self._selected,
            ast.AggregateExpr: self._aggregated,
            ast.Call: self._called,
            ast.BinaryExpr: self._combined,
        }
        if type(node) in kinds:
            return kinds[type(node)](node)
        raise ValueError(f"{node}: is not known to this evaluator")

    def vector(self, node: Any) -> Vector:
        value = self.of(node)
        if not isinstance(value, dict):
            raise ValueError(f"{node}: is a number; accepted: a vector")
        return value

    def _selected(self, node: ast.VectorSelector) -> Vector:
        return {s: value for s, value in self.recording.at(self.instant, node.name).items() if _is_selected(s, node)}

    def _aggregated(self, node: ast.AggregateExpr) -> Vector:
        if node.modifier and node.modifier.type != ast.AggModifierType.By:
            raise ValueError("without: is not known to this evaluator")
        kept = set(node.modifier.labels) if node.modifier else set()
        groups: dict[Labels, list[float]] = {}
        for labels, value in self.vector(node.expr).items():
            groups.setdefault(frozenset(pair for pair in labels if pair[0] in kept), []).append(value)
        return {labels: _AGGREGATIONS[str(node.op)](values) for labels, values in groups.items()}

    def _called(self, node: ast.Call) -> Vector:
        if node.func.name in ("rate", "increase"):
            matrix, seconds = node.args[0].vector_selector, node.args[0].range.total_seconds()
            grown = {
                _without_name(series): _increase(samples, self.instant, seconds)
                for series, samples in self.recording.within(self.instant, seconds, matrix.name).items()
                if len(samples) > 1 and _is_selected(series, matrix)
            }
            return {s: value / seconds for s, value in grown.items()} if node.func.name == "rate" else grown
        if node.func.name == "histogram_quantile":
            return _quantiles(node.args[0].val, self.vector(node.args[1]))
        raise ValueError(f"{node.func.name}: is not known to this evaluator")

    def _combined(self, node: ast.BinaryExpr) -> Vector:
        if node.modifier and (node.modifier.matching or node.modifier.return_bool):
            raise ValueError(f"{node}: on, ignoring and bool are not known to this evaluator")
        left, right, sign = self.of(node.lhs), self.of(node.rhs), str(node.op)
        if sign == "or":
            left, right = self.vector(node.lhs), self.vector(node.rhs)
            known = {_without_name(labels) for labels in left}
            return left | {labels: value for labels, value in right.items() if _without_name(labels) not in known}
        pairs = list(_pairs(left, right))
        if sign in _COMPARISONS:
            kept = {s: (a, b) for s, a, b in pairs if _COMPARISONS[sign](a, b)}
            return {s: a if isinstance(left, dict) else b for s, (a, b) in kept.items()}
        return {_without_name(s): _ARITHMETIC[sign](a, b) for s, a, b in pairs}


def _is_selected(series: Labels, selector: ast.VectorSelector) -> bool:
    labels = dict(series)
    return all(
        _MATCHES[str(m.op).rpartition(".")[2]](labels.get(m.name, ""), m.value) for m in selector.matchers.matchers
    )


def _pairs(left: Vector | float, right: Vector | float) -> Iterator[tuple[Labels, float, float]]:
    """The values to combine: of the same labels, or each with the number."""
    if isinstance(left, dict) and isinstance(right, dict):
        others = {_without_name(labels): value for labels, value in right.items()}
        for labels, value in left.items():
            if _without_name(labels) in others:
                yield _without_name(labels), value, others[_without_name(labels)]
    elif isinstance(left, dict) and not isinstance(right, dict):
        yield from ((labels, value, right) for labels, value in left.items())
    elif isinstance(right, dict) and not isinstance(left, dict):
        yield from ((labels, left, value) for labels, value in right.items())
    else:
        raise ValueError("two numbers are not combined by this evaluator")


def _increase(samples: Sequence[tuple[float, float]], instant: float, seconds: float) -> float:
    """What a counter has grown by, extrapolated to the edges of the window as Prometheus does (promql/functions.go)."""
    times, values = zip(*samples, strict=True)
    resets = sum(before for before, after in itertools.pairwise(values) if after < before)
    grown, sampled = values[-1] - values[0] + resets, times[-1] - times[0]
    between = sampled / (len(samples) - 1)
    to_start, to_end = times[0] - (instant - seconds), instant - times[-1]
    if grown > 0:
        to_start = min(to_start, sampled * values[0] / grown)  # A counter was not below 0.
    covered = sampled + sum(edge if edge < 1.1 * between else between / 2 for edge in (to_start, to_end))
    return grown * covered / sampled


def _quantiles(q: float, buckets: Vector) -> Vector:
    """As `Snapshot.quantile` computes them, of each set of labels but `le`; without observations there is none."""
    groups: dict[Labels, dict[Labels, float]] = {}
    for labels, value in buckets.items():
        group = frozenset(pair for pair in labels if pair[0] not in ("le", "__name__"))
        groups.setdefault(group, {})[frozenset({("le", dict(labels)["le"])})] = value
    found: Vector = {}
    for group, counts in groups.items():
        snapshot = Snapshot({("h_bucket", le): count for le, count in counts.items()})
        quantile = snapshot.quantile(q, "h")
        if quantile is not None:
            found[group] = quantile
    return found
