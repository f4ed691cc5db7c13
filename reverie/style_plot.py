"""The front of style networks: how much of the photograph is given up for how much of the painting, over `strength`.

A panel a style and one for the mean; down and to the left is better. Knows figures only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from loadtests.plots import Axis, Frame, Line, grid, line_chart
from training.style.evaluation.peers import Peer

Curve = Sequence[Mapping[str, float]]
"""Points with `strength`, `content_error` and `style_error`; see `training.style.evaluation.evaluate.curve`."""

_FRAME = Frame(width=560, height=320, legend=190)
_COLUMNS = 2
_NAME = 24
"""Characters of a name that the legend has room for: the end of a run's path tells more than its beginning."""
_CONTENT = Axis("content error (block4_conv2): the photograph that is given up")
_STYLE = Axis("style error (painting at 512)")


def front(networks: Sequence[tuple[str, Mapping[str, Curve]]], peers: Sequence[Peer]) -> str:
    """Return the plot as an SVG file's text.

    Args:
        networks: the name of each, and its curves by style, of the same styles.
    """
    styles = list(networks[0][1])
    panels = [_panel(style, [(name, curves[style]) for name, curves in networks], peers) for style in styles]
    means = [(name, _mean(list(curves.values()))) for name, curves in networks]
    return grid([_panel("all styles", means, ()), *panels], _COLUMNS, _FRAME)


def _panel(title: str, curves: Sequence[tuple[str, Curve]], peers: Sequence[Peer]) -> Markup:
    lines = [_line(name, curve) for name, curve in curves]
    lines += [Line(peer.name, [(peer.content_error, peer.style_error)]) for peer in peers if peer.style == title]
    return line_chart(title, _CONTENT, _STYLE, lines, _FRAME)


def _line(name: str, curve: Curve) -> Line:
    points = [(point["content_error"], point["style_error"]) for point in curve]
    return Line(name[-_NAME:], points, labels=[f"{point['strength']:g}" for point in curve])


def _mean(curves: Sequence[Curve]) -> Curve:
    return [
        {name: float(np.mean([point[name] for point in points])) for name in points[0]}
        for points in zip(*curves, strict=True)
    ]
