"""Line charts as inline SVG: no script, no file beside the page. Knows nothing of load tests."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#393b79", "#ad494a"),
)
WIDTH, HEIGHT = 820, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 240, 30, 44
_TICKS = 6


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order, joined; `dashed` for bounds."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


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


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """An `<svg>` element; points that an axis cannot show (not finite, not above 0 on a logarithmic one) are left out."""
    shown = [Line(line.name, _showable(line.points, x, y), line.dashed) for line in lines]
    shown = [line for line in shown if line.points]
    if not shown:
        return _svg(title, f'<text x="{_LEFT}" y="{HEIGHT / 2}">nothing was measured</text>')
    xs, ys = ([p[i] for line in shown for p in line.points] for i in (0, 1))
    across = Scale.of(xs, x, _LEFT, WIDTH - _RIGHT)
    up = Scale.of(ys, y, HEIGHT - _BOTTOM, _TOP)
    parts = [_x_axis(across, x.label), _y_axis(up, y.label)]
    parts += [_drawn(line, i, across, up) for i, line in enumerate(shown)]
    return _svg(title, "".join(parts))


def _showable(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    def is_shown(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.is_log)

    return [(a, b) for a, b in points if is_shown(a, x) and is_shown(b, y)]


def _round_step(step: float) -> float:
    power = 10 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _svg(title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" font-size="12">'
        f'<text x="{_LEFT}" y="16" font-weight="bold">{html.escape(title)}</text>{body}</svg>'
    )


def _x_axis(scale: Scale, label: str) -> str:
    base = HEIGHT - _BOTTOM
    ticks = "".join(
        f'<line x1="{scale(t):.1f}" x2="{scale(t):.1f}" y1="{_TOP}" y2="{base}" stroke="#eee"/>'
        f'<text x="{scale(t):.1f}" y="{base + 15}" text-anchor="middle">{t:g}</text>'
        for t in scale.ticks()
    )
    middle = (scale.start + scale.end) / 2
    return f'{ticks}<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(label)}</text>'


def _y_axis(scale: Scale, label: str) -> str:
    ticks = "".join(
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{scale(t):.1f}" y2="{scale(t):.1f}" stroke="#eee"/>'
        f'<text x="{_LEFT - 6}" y="{scale(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in scale.ticks()
    )
    middle = (scale.start + scale.end) / 2
    turned = f'transform="rotate(-90 14 {middle})"'
    return f'{ticks}<text x="14" y="{middle}" text-anchor="middle" {turned}>{html.escape(label)}</text>'


def _drawn(line: Line, number: int, across: Scale, up: Scale) -> str:
    colour = COLOURS[number % len(COLOURS)]
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    points = [(f"{across(a):.1f}", f"{up(b):.1f}") for a, b in line.points]
    joined = " ".join(f"{a},{b}" for a, b in points)
    dots = "".join(f'<circle cx="{a}" cy="{b}" r="2" fill="{colour}"/>' for a, b in points if len(points) <= 40)
    name, y = html.escape(line.name), _TOP + 10 + 16 * number
    key = WIDTH - _RIGHT + 10
    legend = f'<text x="{key + 24}" y="{y + 4}">{name}</text>'
    swatch = f'<line x1="{key}" x2="{key + 18}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>'
    drawn = f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'
    return f"{drawn}{dots}{swatch}{legend}"
