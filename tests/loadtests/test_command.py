"""The commands, as processes of their own (locust patches whoever imports it), against the embedded server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.endpoints import ENDPOINTS
from serving.triton.server import PROJECT, TritonServer
from tests.loadtests.paced_server import paced_server, recording_server
from tests.loadtests.test_measure import read


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished command."""
    command = [sys.executable, "-m", f"loadtests.{module}", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_an_open_loop_calls_every_endpoint_on_schedule_and_is_held_against_its_objectives(
    server: TritonServer, tmp_path: Path
):
    promises = "".join(f"[open.{name}]\np95_ms = 60000\nmin_goodput_ratio = 0.9\n" for name in ENDPOINTS)
    (tmp_path / "slo.toml").write_text(promises)
    done = run(
        *("run", "--open", "--arrivals", "constant", "--rate", "5", "--seconds", "5", "--seed", "8"),
        *("--address", server.address.grpc, "--metrics", server.address.metrics),
        *("--slo", str(tmp_path / "slo.toml"), "--out", str(tmp_path), "--max-lag-ms", "60000"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["requests"], found["failures"], found["dropped"]) == (25, 0, 0)
    assert all(found["endpoints"][name]["requests"] for name in ENDPOINTS)
    assert found["endpoints"]["style"]["megapixels_per_s"] > 0
    due = [float(row["scheduled_s"]) for row in read(tmp_path / "calls.csv")]
    assert due == pytest.approx([0.1 + i / 5 for i in range(25)], abs=1e-3)
    assert any(i["side"]["request_ms"] for i in json.loads((tmp_path / "report.json").read_text())["server"])


REFUSED = {
    "run --open --rate 0": "rate: 0.0 is not accepted; accepted: a number above 0",
    "run --mix missing.toml": "missing.toml: cannot be read",
    "soak --mix missing.toml": "missing.toml: cannot be read",
    "capacity --mix missing.toml": "missing.toml: cannot be read",
    "run --replay missing.csv": "missing.csv: cannot be read",
    "run --replay missing.csv --rate 3": "--rate: is not accepted with --replay",
    "run --users 5": "--users: 5 is not accepted; accepted: 6 or more",
    "run --slo missing.toml": "missing.toml: cannot be read",
    "capacity --endpoints generat": "'generat' has no [capacity] objective; accepted: generate",
}
RUN_ALL = """
import loadtests.run  # First: it imports locust, which patches what the others use.
import contextlib, importlib, io, json, sys, typer

ended = {}
for line in sys.argv[1:]:
    module, *sys.argv[1:] = line.split()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            typer.run(importlib.import_module(f"loadtests.{module}").main)
        except SystemExit as end:
            ended[line] = (end.code, said.getvalue())
print(json.dumps(ended))
"""
"""In one process, because importing what a load test needs takes seconds."""


@pytest.fixture(scope="module")
def refusals() -> dict[str, tuple[int, str]]:
    """The exit status of each of `REFUSED`, and what it says."""
    command = [sys.executable, "-c", RUN_ALL, *REFUSED]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_run_is_refused_before_a_server_is_started(refusals, line: str):
    status, said = refusals[line]
    assert status == 2
    assert REFUSED[line] in said and "starting a server" not in said


@pytest.mark.slow
def test_the_capacity_of_a_server_is_found_and_what_three_times_that_does_to_it(tmp_path: Path):
    promises = "[capacity.score]\np95_ms = 400\nmax_failure_ratio = 0.05\n[overload]\nrecovery_seconds = 60\n"
    (tmp_path / "slo.toml").write_text(promises)
    with paced_server(seconds=0.05) as address:
        done = run(
            *("capacity", "--address", address, "--slo", str(tmp_path / "slo.toml"), "--out", str(tmp_path)),
            *("--window", "1", "--surge", "1.5", "--rounds", "2", "--min-requests", "15", "--precision", "0.4"),
            *("--arrivals", "constant"),
            *("--max-lag-ms", "60000"),
        )
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 5 < found["capacity_rps"]["score"] < 25  # 20; on a busy machine steps fail that would pass.
    assert found["overload"]["score"]["refused"] > 0 and found["reject_ms_p99"] is not None
    assert found["valid"] and "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_two_servers_are_told_apart(tmp_path: Path):
    with paced_server(seconds=0.02) as fast, paced_server(seconds=0.2) as slow:
        done = run(
            *("compare", fast, slow, "--endpoints", "score", "--rate", "5", "--rounds", "3", "--window", "1"),
            *("--arrivals", "constant", "--max-lag-ms", "60000", "--out", str(tmp_path)),
        )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["verdict"] == "B is slower"


@pytest.mark.slow
def test_a_mix_is_asked_and_what_was_recorded_can_be_replayed(tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[[request]]\nendpoint = "score"\nprompts = ["uno", "due", "tre"]\n')
    (tmp_path / "slo.toml").write_text("[closed.score]\np95_ms = 60000\n[open.score]\np95_ms = 60000\n")
    shared = ("--mix", str(mine), "--slo", str(tmp_path / "slo.toml"), "--max-lag-ms", "60000", "--max-cpu-share", "9")
    with recording_server(seconds=0.0) as (address, texts):
        recorded = run("run", "--address", address, "--users", "2", "--seconds", "1.5", "--out", str(tmp_path), *shared)
        assert recorded.returncode == 0, recorded.stderr
        asked, calls = texts[:], read(tmp_path / "calls.csv")
        texts.clear()
        again = run(
            *("run", "--address", address, "--replay", str(tmp_path / "calls.csv")),
            *("--out", str(tmp_path / "again"), *shared),
        )
        assert again.returncode == 0, again.stderr
    assert set(asked) == {"uno", "due", "tre"}
    assert sorted(texts) == sorted(asked)
    due = [(float(row["scheduled_s"]), row["seed"]) for row in read(tmp_path / "again" / "calls.csv")]
    assert due == sorted((float(row["scheduled_s"]), row["seed"]) for row in calls)


def test_a_mix_that_the_server_refuses_ends_the_command_before_the_load(server: TritonServer, tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[[request]]\nendpoint = "stylize"\nparameters = {style = "monet"}\n')
    refused = run("run", "--address", server.address.grpc, "--mix", str(mine), "--out", str(tmp_path))
    assert refused.returncode == 2
    assert (
        "mine.toml: request 1 (stylize): the server says INVALID_ARGUMENT: style: 'monet' is unknown" in refused.stderr
    )
