"""One self-contained page of a load test: tables and inline plots, no script and nothing to fetch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from loadtests.calls import Call, Outcome
from loadtests.measure import Measured, percentile, times_of
from loadtests.plots import Axis, Line, line_chart
from loadtests.server_metrics import Interval, ServerSide
from reverie.pages import macros, templates

_CDF_POINTS = 100


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    parts: Sequence[Markup]


def page(title: str, sections: Iterable[Section]) -> str:
    """Return the whole page."""
    return templates("loadtests").get_template("report.html.jinja").render(title=title, sections=sections)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; numbers have three significant digits or more, None is a dash."""
    return _parts().table(header, [[_cell(value) for value in row] for row in rows])


def paragraph(text: str) -> Markup:
    """Return a paragraph."""
    return _parts().paragraph(text)


def verdict(violations: Sequence[str], invalid: Sequence[str] = ()) -> Section:
    """Say whether the objectives were met, and why the run may not count."""
    return Section("Verdict", [_parts().verdict(violations, invalid)])


def _parts() -> Any:
    """The macros that a page is put together from."""
    return macros("loadtests", "parts.html.jinja")


def summary(measured: Mapping[str, Measured]) -> Section:
    """Return a table with a row for each name."""
    columns = {
        "requests": "requests",
        "failures": "failed",
        "refused": "refused",
        "dropped": "dropped",
        "offered_per_s": "offered/s",
        "achieved_per_s": "answered/s",
        "goodput_per_s": "good/s",
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "received_mib_per_s": "MiB/s",
        "megapixels_per_s": "Mpixel/s",
    }
    rows = [[name, *(getattr(m, column) for column in columns)] for name, m in measured.items()]
    return Section("What was measured", [table(["", *columns.values()], rows)])


def distribution(calls: Sequence[Call], names: Iterable[str]) -> Section:
    """Draw how many percent of the answers took at most how long."""
    lines = [Line(name, cumulative(times_of(name, calls))) for name in names]
    chart = line_chart("Latency distribution", Axis("milliseconds", is_log=True), Axis("% of answers"), lines)
    return Section("Distribution", [chart])


def cumulative(times: Sequence[float]) -> list[tuple[float, float]]:
    """Return points (time, percent of `times` not above it): at most a hundred, the last at the maximum."""
    ranks = [100 * (i + 1) / _CDF_POINTS for i in range(_CDF_POINTS)] if times else []
    return [(percentile(times, rank) or 0.0, rank) for rank in ranks]


def client_timeline(calls: Sequence[Call], bucket_s: float = 1.0) -> Section:
    """Draw p95 and outcomes over time, by when requests were due."""
    endpoints = sorted({c.endpoint for c in calls})
    latency = [Line(e, p95_over_time([c for c in calls if c.endpoint == e], bucket_s)) for e in endpoints]
    outcomes = [Line(o.value, rate_over_time([c for c in calls if c.outcome is o], bucket_s)) for o in Outcome]
    charts = [
        line_chart("p95 by scheduled time", Axis("s"), Axis("milliseconds", is_log=True), latency),
        line_chart("Requests by outcome", Axis("s"), Axis("requests/s"), outcomes),
    ]
    return Section("Timeline: the clients' view", charts)


def p95_over_time(calls: Sequence[Call], bucket_s: float) -> list[tuple[float, float]]:
    """Return points (middle of a bucket, p95 in ms of the requests answered of those due in it)."""
    answered = [c for c in calls if c.outcome is Outcome.ANSWERED]
    return [(at, percentile([c.milliseconds for c in group], 95) or 0.0) for at, group in _buckets(answered, bucket_s)]


def rate_over_time(calls: Sequence[Call], bucket_s: float) -> list[tuple[float, float]]:
    """Return points (middle of a bucket, calls per second due in it)."""
    return [(at, len(group) / bucket_s) for at, group in _buckets(calls, bucket_s)]


def _buckets(calls: Sequence[Call], bucket_s: float) -> list[tuple[float, list[Call]]]:
    ordered = sorted(calls, key=lambda c: c.scheduled_s)
    groups = itertools.groupby(ordered, key=lambda c: int(c.scheduled_s // bucket_s))
    return [((number + 0.5) * bucket_s, list(group)) for number, group in groups]


def server_timeline(found: Sequence[Interval]) -> Section:
    """Draw what the server's own metrics say of each model over time."""
    if not found:
        return Section(
            "Timeline: the server's view", [paragraph("The server's metrics were not read (--metrics URL).")]
        )
    views = {
        "queue_ms": "Mean wait, ms",
        "queue_p95_ms": "p95 of the wait, ms",
        "request_ms": "Mean of the whole, ms",
        "p95_ms": "p95 of the whole, ms",
        "first_message_ms": "Mean time to the first message, ms",
        "batch": "Texts a decoder step",
    }
    charts = [line_chart(title, Axis("s"), Axis(title), _by_model(found, value)) for value, title in views.items()]
    return Section("Timeline: the server's view", [_ended(found), *charts])


def _ended(found: Sequence[Interval]) -> Markup:
    """Draw how many requests ended, by model and status."""
    points: dict[str, list[tuple[float, float]]] = {}
    for interval in found:
        total = sum(interval.side.statuses.values())
        for status, count in interval.side.statuses.items():
            rate = interval.requests_per_s * count / total
            points.setdefault(f"{interval.model} {status}", []).append((interval.at_s, rate))
    lines = [Line(name, own) for name, own in sorted(points.items())]
    return line_chart("Requests by status", Axis("s"), Axis("requests/s"), lines)


def _by_model(found: Sequence[Interval], value: str) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for interval in found:
        if (y := getattr(interval.side, value)) is not None:
            points.setdefault(interval.model, []).append((interval.at_s, y))
    return [Line(model, own) for model, own in sorted(points.items())]


def both_sides(calls: Sequence[Call], server: Mapping[str, ServerSide]) -> Section:
    """Set what the clients saw beside what the server counted: calls by status, p50 and p95 from when they were sent."""
    rows = []
    for endpoint in sorted({call.endpoint for call in calls} & server.keys()):
        own = [call for call in calls if call.endpoint == endpoint]
        rows += [[endpoint, *row] for row in _beside(own, server[endpoint])]
    if not rows:
        return Section("Both sides", [paragraph("The server's metrics were not read (--metrics URL).")])
    return Section("Both sides", [table(["", "", "clients", "server", "server/clients"], rows)])


def _beside(calls: Sequence[Call], side: ServerSide) -> list[list[object]]:
    seen = Counter(call.status for call in calls if call.outcome is not Outcome.DROPPED)
    times = [1000 * (c.finished_s - c.started_s) for c in calls if c.outcome is Outcome.ANSWERED]
    pairs: dict[str, tuple[float | None, float | None]] = {
        status: (seen.get(status, 0), side.statuses.get(status, 0)) for status in sorted({*seen, *side.statuses})
    }
    pairs |= {"p50 ms": (percentile(times, 50), side.p50_ms), "p95 ms": (percentile(times, 95), side.p95_ms)}
    return [
        [name, own, theirs, theirs / own if own and theirs is not None else None]
        for name, (own, theirs) in pairs.items()
    ]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
