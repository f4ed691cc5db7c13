"""Line charts as inline SVG: no script, no file beside the page. Knows nothing of load tests."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

COLORS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#393b79", "#ad494a"),
)
_LEFT, _TOP, _BOTTOM = 64, 30, 44
_TICKS = 6


@dataclass(frozen=True)
class Frame:
    """Pixels of a chart, the legend's at its right."""

    width: int = 820
    height: int = 300
    legend: int = 240

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
        """From zero, or on a logarithmic axis from the power of ten below the smallest value."""
        if axis.is_log:
            low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
            return cls(low, high if high > low else low * 10, start, end, True)
        low, high = min(0.0, *values), max(values)
        return cls(low, high if high > low else low + 1, start, end, False)

    def __call__(self, value: float) -> float:
        share = (self._unit(value) - self._unit(self.low)) / (self._unit(self.high) - self._unit(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the scale."""
        if self.is_log:
            return [10.0**e for e in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step for i in range(first, last + 1)]

    def _unit(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], frame: Frame = Frame()) -> str:
    """An `<svg>` element; points that an axis cannot show (not finite, not above 0 on a logarithmic one) are left out."""
    shown = [line for line in (_showable(line, x, y) for line in lines) if line.points]
    if not shown:
        return _svg(title, frame, f'<text x="{_LEFT}" y="{frame.height / 2}">nothing was measured</text>')
    xs, ys = ([p[i] for line in shown for p in line.points] for i in (0, 1))
    across = Scale.of(xs, x, _LEFT, frame.right)
    up = Scale.of(ys, y, frame.base, _TOP)
    parts = [_x_axis(across, x.label, frame), _y_axis(up, y.label, frame)]
    parts += [_drawn(line, i, across, up, frame) for i, line in enumerate(shown)]
    return _svg(title, frame, "".join(parts))


def grid(charts: Sequence[str], columns: int, frame: Frame) -> str:
    """A file of its own: charts of one frame side by side, on white."""
    rows = -(-len(charts) // columns)
    placed = "".join(
        f'<g transform="translate({i % columns * frame.width} {i // columns * frame.height})">{chart}</g>'
        for i, chart in enumerate(charts)
    )
    width, height = min(columns, len(charts)) * frame.width, rows * frame.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
        f'<rect width="{width}" height="{height}" fill="white"/>{placed}</svg>\n'
    )


def _showable(line: Line, x: Axis, y: Axis) -> Line:
    def is_shown(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.is_log)

    kept = [i for i, (a, b) in enumerate(line.points) if is_shown(a, x) and is_shown(b, y)]
    labels = [line.labels[i] for i in kept] if line.labels else ()
    return replace(line, points=[line.points[i] for i in kept], labels=labels)


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _svg(title: str, frame: Frame, body: str) -> str:
    width, height = frame.width, frame.height
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-size="12">'
        f'<text x="{_LEFT}" y="16" font-weight="bold">{html.escape(title)}</text>{body}</svg>'
    )


def _x_axis(scale: Scale, label: str, frame: Frame) -> str:
    base = frame.base
    ticks = "".join(
        f'<line x1="{scale(t):.1f}" x2="{scale(t):.1f}" y1="{_TOP}" y2="{base}" stroke="#eee"/>'
        f'<text x="{scale(t):.1f}" y="{base + 15}" text-anchor="middle">{t:g}</text>'
        for t in scale.ticks()
    )
    middle = (scale.start + scale.end) / 2
    return f'{ticks}<text x="{middle}" y="{frame.height - 8}" text-anchor="middle">{html.escape(label)}</text>'


def _y_axis(scale: Scale, label: str, frame: Frame) -> str:
    ticks = "".join(
        f'<line x1="{_LEFT}" x2="{frame.right}" y1="{scale(t):.1f}" y2="{scale(t):.1f}" stroke="#eee"/>'
        f'<text x="{_LEFT - 6}" y="{scale(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in scale.ticks()
    )
    middle = (scale.start + scale.end) / 2
    turned = f'transform="rotate(-90 14 {middle})"'
    return f'{ticks}<text x="14" y="{middle}" text-anchor="middle" {turned}>{html.escape(label)}</text>'


def _drawn(line: Line, number: int, across: Scale, up: Scale, frame: Frame) -> str:
    color = COLORS[number % len(COLORS)]
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    points = [(f"{across(a):.1f}", f"{up(b):.1f}") for a, b in line.points]
    joined = " ".join(f"{a},{b}" for a, b in points)
    radius = 2 if len(points) > 1 else 4
    dots = "".join(f'<circle cx="{a}" cy="{b}" r="{radius}" fill="{color}"/>' for a, b in points if len(points) <= 40)
    name, y = html.escape(line.name), _TOP + 10 + 16 * number
    key = frame.right + 10
    legend = f'<text x="{key + 24}" y="{y + 4}">{name}</text>'
    swatch = f'<line x1="{key}" x2="{key + 18}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="2"{dash}/>'
    drawn = f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="1.5"{dash}/>'
    return f"{drawn}{dots}{_labels(line, points, color)}{swatch}{legend}"


def _labels(line: Line, points: Sequence[tuple[str, str]], color: str) -> str:
    return "".join(
        f'<text x="{a}" y="{b}" dx="6" dy="-3" font-size="10" fill="{color}">{html.escape(label)}</text>'
        for (a, b), label in zip(points, line.labels, strict=False)
    )
