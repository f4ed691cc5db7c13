"""`python -m loadtests.run`: load a server for a while and say whether it met its objectives.

Headless and closed-loop (a user sends its next request after the answer and a pause). Progress goes to
stderr, a table and a last line of JSON to stdout. Exit status: 0 objectives met, 1 not met, 2 no server
or bad arguments.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

# First: importing locust monkey-patches what the modules below use.
from locust.env import Environment  # isort: skip
from locust.html import get_html_report  # isort: skip
from locust.stats import stats_history  # isort: skip

import gevent
import typer
from rich.console import Console
from rich.table import Table

from loadtests import slo
from loadtests.measure import Measured, Samples, write_csv
from loadtests.users import TIMEOUT_S, USERS, checked, recorded_names
from serving.client import Client
from serving.triton.server import PROJECT, ServerError, TritonServer

READY_WITHIN_S = 60.0
WARM_UP_TIMEOUT_S = 300.0
"""The first dream traces its TensorFlow functions and reads its weights."""
PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a load test found; `violations` are sentences, none where the objectives were met."""

    measured: dict[str, Measured]
    seconds: float
    violations: list[str]

    def summary(self) -> dict[str, Any]:
        """The JSON line; first messages are entries of their own, but count in no total."""
        whole = [self.measured[user.endpoint] for user in USERS]
        return {
            "endpoints": {name: _rounded(m) for name, m in self.measured.items()},
            "requests_per_s": round(sum(m.requests_per_s for m in whole), 3),
            "failures": sum(m.failures for m in whole),
            "slo_met": not self.violations,
        }


def main(
    address: Annotated[
        str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of a running server; empty starts one.")
    ] = "",
    users: Annotated[int, typer.Option(min=len(USERS), help="Users at once; fewer would leave endpoints out.")] = 6,
    seconds: Annotated[float, typer.Option(min=1, help="How long users send requests.")] = 60,
    slo_file: Annotated[Path, typer.Option("--slo", help="Objectives.")] = Path(__file__).parent / "slo.toml",
    out: Annotated[Path, typer.Option(help="Folder to write report.html and *.csv into.")] = Path("out/loadtest"),
) -> None:
    """Load a server with a mix of users and hold the response times against objectives."""
    try:
        objectives = slo.load(slo_file, recorded_names())
        out.mkdir(parents=True, exist_ok=True)
        with _server(address, out) as target:
            outcome = load_test(target, users, seconds, objectives, out)
    except (slo.ObjectiveError, ServerError, OSError) as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    print_outcome(outcome)
    raise typer.Exit(1 if outcome.violations else 0)


def load_test(address: str, users: int, seconds: float, objectives: dict[str, slo.Objective], out: Path) -> Outcome:
    """Warm the server up, load it, write the reports into `out`, and compare with `objectives`."""
    warm_up(address)
    samples = Samples()
    environment = Environment(user_classes=list(USERS), host=address, stop_timeout=TIMEOUT_S)
    environment.events.request.add_listener(samples.record)
    _send_load(environment, samples, users, seconds)
    measured = samples.measured(recorded_names())
    (out / "report.html").write_text(get_html_report(environment, show_download_link=False))
    write_csv(out, samples, measured)
    violations = [f"{n}: {v}" for n, objective in objectives.items() for v in slo.check(objective, measured[n])]
    return Outcome(measured, samples.seconds, violations)


def warm_up(address: str) -> None:
    """One request to each endpoint, unrecorded; a failure is told, and left to the load to record."""
    with Client(address, timeout=WARM_UP_TIMEOUT_S) as client:
        for user in USERS:
            started = time.perf_counter()
            try:
                for _ in checked(user.request(client, random.Random(0))):
                    pass
                say(f"warmed up {user.endpoint} in {time.perf_counter() - started:.1f} s")
            except Exception as error:
                say(f"warm-up of {user.endpoint} failed: {error}")


def print_outcome(outcome: Outcome) -> None:
    """Table, violations and the JSON line."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title=f"{outcome.seconds:.0f} s of load")
    table.add_column("endpoint", no_wrap=True)
    for heading in ("requests", "failures", "requests/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for name, m in outcome.measured.items():
        times = (_milliseconds(t) for t in (m.p50_ms, m.p95_ms, m.p99_ms))
        table.add_row(name, str(m.requests), str(m.failures), f"{m.requests_per_s:.2f}", *times)
    console.print(table)
    for violation in outcome.violations:
        typer.echo(f"objective not met: {violation}")
    typer.echo(json.dumps(outcome.summary(), allow_nan=False))


def say(line: str) -> None:
    """Tell the person who waits; stdout is for results."""
    typer.echo(line, err=True)


@contextlib.contextmanager
def _server(address: str, out: Path) -> Iterator[str]:
    """The address of a server that is ready: the given one, or one that lives as long as this context."""
    if address:
        _wait_until_ready(address)
        yield address
        return
    log = out / "triton.log"
    say(f"starting a server; its output goes to {log}")
    with TritonServer(PROJECT / "model_repository", log=log) as server:
        yield server.address.grpc


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with Client(address) as client:
        while not client.ready():
            if time.monotonic() > deadline:
                raise ServerError(f"no server was ready at {address} within {READY_WITHIN_S:.0f} s")
            time.sleep(0.5)


def _send_load(environment: Environment, samples: Samples, users: int, seconds: float) -> None:
    """Run `users` for `seconds`; requests that are under way then are waited for."""
    runner = environment.create_local_runner()
    history = gevent.spawn(stats_history, runner)
    runner.start(users, spawn_rate=users)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, PROGRESS_EVERY_S))
        done = [s for s in samples if s.name in {user.endpoint for user in USERS}]
        failed = sum(bool(s.error) for s in done)
        say(f"{seconds - max(0.0, deadline - time.monotonic()):.0f} s: {len(done)} requests, {failed} failed")
    runner.quit()
    history.kill()


def _rounded(measured: Measured) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(measured).items()}


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    typer.run(main)
