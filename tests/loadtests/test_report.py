"""The page and its plots."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from loadtests import report
from loadtests.calls import DROPPED, Call
from loadtests.measure import measure
from loadtests.plots import Axis, Frame, Line, grid, line_chart
from loadtests.server_metrics import Interval, ServerSide
from tests.loadtests.made import BROKEN, call, steady

X, Y, LOG = Axis("s"), Axis("ms"), Axis("ms", is_log=True)


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    """The pixels of each line of a chart."""
    drawn = ElementTree.fromstring(svg).iter("polyline")
    return [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in drawn]


def test_a_line_rises_on_the_page_with_its_values():
    [line] = polylines(line_chart("t", X, Y, [Line("a", [(0, 0), (1, 10), (2, 20)])]))
    assert [p[0] for p in line] == sorted(p[0] for p in line)
    assert line[0][1] - line[1][1] == line[1][1] - line[2][1] > 0


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    [line] = polylines(line_chart("t", X, LOG, [Line("a", [(0, 1), (1, 10), (2, 100)])]))
    assert round(line[0][1] - line[1][1], 1) == round(line[1][1] - line[2][1], 1)


def test_points_that_cannot_be_shown_are_left_out():
    [line] = polylines(line_chart("t", X, LOG, [Line("a", [(0, 0), (1, 10), (2, math.nan), (3, 20)])]))
    assert len(line) == 2
    assert "nothing was measured" in line_chart("t", X, LOG, [Line("a", [(0, 0)])])


def test_names_are_escaped():
    assert "<b>" not in line_chart("<b>", Axis("<b>"), Y, [Line("<b>", [(0, 1)])])
    table, verdict = report.table(["<b>"], [["<b>"]]), report.verdict(["<b>"], ["<b>"])
    page = report.page("<b>", [report.Section("<b>", [table, report.paragraph("<b>")]), verdict])
    assert "<b>" not in page and page.count("&lt;b&gt;") == 8


def test_the_page_needs_nothing_beside_itself():
    calls = [*steady(10, 0, 3, ms=80), Call("generate", 0, 0, 0.5, (0.1, 0.5)), call(error=BROKEN)]
    side = ServerSide("style", {"OK": 3}, 1.0, 2.0, 20.0, 19.0, 30.0, 4.0, 1.5)
    server = [Interval("style", at, 3.0, side) for at in (0.5, 1.5)]
    sections = [
        report.verdict(["stylize: p95 is 9 ms"]),
        report.summary(measure(calls, ["stylize", "generate"], 3.0)),
        report.distribution(calls, ["stylize", "generate first message"]),
        report.client_timeline(calls),
        report.server_timeline(server),
    ]
    page = report.page("Load test", sections)
    assert not re.search(r"<script|<link|src=|href=|url\(|@import", page)
    assert page.count("<svg") == 10
    assert "Not met: stylize: p95 is 9 ms." in page


def test_both_sides_stand_beside_each_other_with_their_ratio():
    calls = [*steady(10, 0, 1, ms=80), call(error=BROKEN), call(error=DROPPED)]
    side = ServerSide("stylize", {"OK": 9, "INTERNAL": 1, "CANCELLED": 2}, p50_ms=72.0, p95_ms=76.0)
    section = str(report.both_sides(calls, {"stylize": side, "style": side}).parts[0])
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)[1:]]
    assert cells == [
        ["stylize", "CANCELLED", "0", "2", "-"],
        ["stylize", "INTERNAL", "1", "1", "1"],
        ["stylize", "OK", "10", "9", "0.9"],
        ["stylize", "p50 ms", "80", "72", "0.9"],
        ["stylize", "p95 ms", "80", "76", "0.95"],
    ]


def test_timelines_go_by_when_requests_were_due():
    calls = [call(at_s=0.2, ms=5000), call(at_s=1.2, ms=10), call(at_s=1.8, ms=20)]
    assert report.p95_over_time(calls, 1.0) == [(0.5, 5000.0), (1.5, calls[2].milliseconds)]
    assert report.rate_over_time(calls, 1.0) == [(0.5, 1.0), (1.5, 2.0)]


def test_a_distribution_ends_at_the_slowest_answer():
    points = report.cumulative([float(i) for i in range(1, 1001)])
    assert points[-1] == (1000.0, 100.0)
    assert points[49] == (500.0, 50.0)
    assert report.cumulative([]) == []


def test_labels_stay_with_their_points_where_others_cannot_be_shown():
    chart = line_chart("t", X, LOG, [Line("a", [(0, 0), (1, 10), (2, 20)], labels=["nought", "ten", "twenty"])])
    assert "nought" not in chart
    assert chart.index(">ten<") < chart.index(">twenty<")


def test_charts_side_by_side_are_one_file():
    frame = Frame(width=300, height=200, legend=100)
    chart = line_chart("t", X, Y, [Line("a", [(0, 0), (1, 1)])], frame)
    root = ElementTree.fromstring(grid([chart] * 3, 2, frame))
    assert (root.get("width"), root.get("height")) == ("600", "400")
    places = [group.get("transform") for group in root.iter("{http://www.w3.org/2000/svg}g")]
    assert places == ["translate(0 0)", "translate(300 0)", "translate(0 200)"]
