"""Line charts as inline SVG: no script, no file beside the page. Knows nothing of load tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from reverie.pages import macros

COLORS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#393b79", "#ad494a"),
)
_BOTTOM = 44
_TICKS = 6


@dataclass(frozen=True)
class Frame:
    """Pixels of a chart, the legend's at its right; `left` and `top` say where the axes end."""

    width: int = 820
    height: int = 300
    legend: int = 240
    left: int = 64
    top: int = 30

    @property
    def right(self) -> int:
        """Where the axes end."""
        return self.width - self.legend

    @property
    def base(self) -> int:
        """Where the horizontal axis is."""
        return self.height - _BOTTOM


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order, joined; `dashed` for bounds. `labels` stand beside the points."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    labels: Sequence[str] = ()

    def pixels(self, across: Scale, up: Scale) -> list[tuple[str, str]]:
        """Return where the points are on the page."""
        return [(f"{across(x):.1f}", f"{up(y):.1f}") for x, y in self.points]


@dataclass(frozen=True)
class Axis:
    """A label with its unit, and the kind of scale; values of a logarithmic axis must be positive."""

    label: str
    is_log: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps values onto pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    @classmethod
    def of(cls, values: Sequence[float], axis: Axis, start: float, end: float) -> Scale:
        """Begin at zero, or on a logarithmic axis at the power of ten below the smallest value."""
        if axis.is_log:
            low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
            return cls(low, high if high > low else low * 10, start, end, True)
        low, high = min(0.0, *values), max(values)
        return cls(low, high if high > low else low + 1, start, end, False)

    def __call__(self, value: float) -> float:
        share = (self._unit(value) - self._unit(self.low)) / (self._unit(self.high) - self._unit(self.low))
        return self.start + share * (self.end - self.start)

    @property
    def middle(self) -> float:
        """The pixel half-way."""
        return (self.start + self.end) / 2

    def ticks(self) -> list[float]:
        """Return round values within the scale."""
        if self.is_log:
            return [10.0**e for e in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step for i in range(first, last + 1)]

    def _unit(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], frame: Frame = Frame()) -> Markup:
    """Draw lines as an `<svg>` element.

    Points that an axis cannot show (not finite, not above 0 on a logarithmic one) are left out.
    """
    shown = [line for line in (_showable(line, x, y) for line in lines) if line.points]
    if not shown:
        return _drawing().empty_chart(title, frame)
    xs, ys = ([p[i] for line in shown for p in line.points] for i in (0, 1))
    across = Scale.of(xs, x, frame.left, frame.right)
    up = Scale.of(ys, y, frame.base, frame.top)
    return _drawing().chart(title, across, x.label, up, y.label, shown, frame, COLORS)


def grid(charts: Sequence[Markup], columns: int, frame: Frame) -> Markup:
    """Draw charts of one frame side by side, on white, as a file of its own."""
    return _drawing().grid(charts, columns, frame)


def _drawing() -> Any:
    return macros("loadtests", "chart.svg.jinja")


def _showable(line: Line, x: Axis, y: Axis) -> Line:
    def is_shown(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.is_log)

    kept = [i for i, (a, b) in enumerate(line.points) if is_shown(a, x) and is_shown(b, y)]
    labels = [line.labels[i] for i in kept] if line.labels else ()
    return replace(line, points=[line.points[i] for i in kept], labels=labels)


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
