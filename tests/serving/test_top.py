"""What `reverie top` says beside what callers saw."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from typer.testing import CliRunner

from reverie.cli import cli
from reverie.prometheus import Snapshot
from serving.telemetry import top

BEFORE = """
# TYPE reverie_requests_total counter
reverie_requests_total{model="score",status="OK",version="2"} 10
reverie_requests_total{model="style",status="OK",version="1"} 5
"""
AFTER = """
# TYPE reverie_requests_total counter
reverie_requests_total{model="score",status="OK",version="2"} 12
reverie_requests_total{model="score",status="INVALID_ARGUMENT",version="2"} 1
reverie_requests_total{model="score",status="UNAVAILABLE",version="2"} 1
reverie_requests_total{model="style",status="OK",version="1"} 5
# TYPE reverie_request_seconds histogram
reverie_request_seconds_bucket{le="0.1",model="score",version="2"} 2
reverie_request_seconds_bucket{le="+Inf",model="score",version="2"} 2
# TYPE reverie_in_flight gauge
reverie_in_flight{model="score",state="waiting",version="2"} 3
reverie_in_flight{model="score",state="running",version="2"} 1
"""


def test_a_row_has_what_was_added_between_two_looks():
    score, style = top.rows(Snapshot.read(BEFORE), Snapshot.read(AFTER), seconds=2.0)
    assert (score.model, score.version, score.rate, score.errors) == ("score", "2", 2.0, 0.25)
    assert (score.p50, score.p95) == (pytest.approx(0.05), pytest.approx(0.095))
    assert (score.waiting, score.running, score.first) == (3, 1, None)
    assert (style.rate, style.errors, style.p50) == (0.0, None, None)


def test_a_version_that_did_nothing_has_no_times_in_the_table():
    view = top.View(2.0, top.rows(Snapshot.read(BEFORE), Snapshot.read(AFTER), 2.0), [top.ProcessRow(7, "score", 99.6)])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(top.render(view, "http://there/metrics"))
    shown = console.export_text()
    assert "25.0%" in shown and "100" in shown and "the last 2.0 s" in shown
    assert next(line for line in shown.splitlines() if line.startswith("style")).split()[3:7] == ["-"] * 4


def test_nobody_at_the_address_is_said_with_what_is_accepted():
    for address in ("http://127.0.0.1:9/metrics", "no-address", "http://[::1"):
        ended = CliRunner().invoke(cli, ["top", "--once", "--metrics", address])
        assert ended.exit_code and address in str(ended.exception) and "accepted:" in str(ended.exception)


def test_once_says_what_callers_saw(server, client):
    url = server.address.metrics

    def answered() -> float:
        return top.read(url).total("reverie_requests", model="score", status="OK")

    def call(_: float) -> None:
        before = answered()
        for _ in range(4):
            client.score("this movie was good")
        while answered() < before + 4:  # A request is counted just after its answer has left.
            time.sleep(0.01)

    view = next(top.looks(url, 0.0, wait=call))
    (row,) = [row for row in view.models if row.model == "score"]
    assert row.rate == pytest.approx(4 / view.seconds) and row.errors == 0
    assert 0 < row.p50 <= row.p95 and row.running == 0
    names = {process.name: process.mib for process in view.processes}
    assert names["tritonserver"] > 10 and all(
        any(name.startswith(model) for name in names) for model in ("score", "language_model")
    )
    said = CliRunner().invoke(cli, ["top", "--json", "--interval", "0.1", "--metrics", url])
    assert {"score", "language_model"} <= {row["model"] for row in json.loads(said.output)["models"]}
    shown = CliRunner().invoke(cli, ["top", "--once", "--interval", "0.1", "--metrics", url])
    assert "tritonserver" in shown.output and "p95 ms" in shown.output
