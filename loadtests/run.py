"""`python -m loadtests.run`: load a server for a while and say whether it met its objectives.

Closed loop by default (a user sends its next request after the answer and a pause); with `--open`, requests come
on a schedule whatever the server does, and latency counts from the scheduled time. `--mix` says what is asked, `--replay`
sends a recorded `calls.csv` again. Progress goes to stderr, a
table and a last line of JSON to stdout. Exit status: 0 objectives met, 1 not met, 2 no server or bad arguments,
3 the generator was the bottleneck and the run says nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

# First: importing locust monkey-patches what the modules below use.
from loadtests.users import TIMEOUT_S  # isort: skip

import typer
from rich.console import Console
from rich.table import Table

from loadtests import mix, report, slo
from loadtests.arrivals import Arrival, Phase, ScheduleError, schedule
from loadtests.background import every
from loadtests.calls import Call
from loadtests.closed_loop import send_from_users
from loadtests.endpoints import ENDPOINTS, recorded_names
from loadtests.generator import CpuMeter, GeneratorHealth, Limits
from loadtests.measure import Measured, measure, write_csv
from loadtests.mix import Mix, MixError
from loadtests.open_loop import send_on_schedule
from loadtests.replay import ReplayError, read_calls
from loadtests.server_metrics import Interval, Poller, ServerSide, intervals, whole
from loadtests.slo import Objective
from loadtests.target import WARM_UP_TIMEOUT_S, Target, say, sender, target, warm_up
from reverie import outputs
from reverie.outputs import OutputError
from serving.triton.errors import ServerError

PROGRESS_EVERY_S = 5.0
POLL_EVERY_S = 1.0
DRAIN_S = 5.0
"""How much longer than a request's deadline the last answers are waited for."""


@dataclass(frozen=True)
class Result:
    """What a load test found.

    Attributes:
        violations: sentences, none where the objectives were met.
        invalid: why the run says nothing, none where it does.
        server, server_whole: what the server's metrics say, between two looks at them and over all.
        mix: the name of what was asked.
    """

    calls: Sequence[Call]
    measured: Mapping[str, Measured]
    seconds: float
    health: GeneratorHealth
    violations: Sequence[str] = ()
    invalid: Sequence[str] = ()
    server: Sequence[Interval] = ()
    server_whole: Mapping[str, ServerSide] = field(default_factory=dict)
    mix: str = mix.DEFAULT.name

    @property
    def exit_code(self) -> int:
        return 3 if self.invalid else 1 if self.violations else 0

    def summary(self) -> dict[str, Any]:
        """Return the JSON line; times within streams are entries of their own, but count in no total."""
        whole = [m for name, m in self.measured.items() if name in ENDPOINTS]
        return {
            "endpoints": {name: m.rounded() for name, m in self.measured.items()},
            **{name: round(sum(getattr(m, name) for m in whole), 3) for name in _TOTALS},
            "generator": {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self.health).items()},
            "mix": self.mix,
            "valid": not self.invalid,
            "slo_met": not self.violations,
        }


_TOTALS = ("requests", "failures", "refused", "dropped", "offered_per_s", "achieved_per_s", "goodput_per_s")


@dataclass
class Progress:
    """Counts calls as they end."""

    ended: int = 0
    failed: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def count(self, call: Call) -> None:
        self.ended += 1
        self.failed += bool(call.error)

    def tell(self) -> None:
        say(f"{time.perf_counter() - self._began:.0f} s: {self.ended} requests, {self.failed} failed")


Address = Annotated[
    str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of a running server. Empty starts one.")
]
MetricsUrl = Annotated[
    str, typer.Option(help="Read the metrics of that server here, for example http://127.0.0.1:8002/metrics.")
]
MixFile = Annotated[
    Path | None,
    typer.Option(
        "--mix", help="Send the requests that this TOML file describes; see docs/loadtests.md. Default: all endpoints."
    ),
]
Door = Annotated[
    bool, typer.Option(help="Put a door before a server that is started here; --no-door sends to Triton itself.")
]
SloFile = Annotated[Path, typer.Option("--slo", help="Read the objectives from this TOML file.")]
Arrivals = Annotated[str, typer.Option(help="Choose when requests are sent: poisson or constant.")]
Seed = Annotated[
    int, typer.Option(min=0, help="Choose the requests and their times. The same seed gives the same ones.")
]
MaxInFlight = Annotated[int, typer.Option(min=1, help="Drop a request if so many are still unanswered when it is due.")]
MaxCpuShare = Annotated[
    float, typer.Option(help="Call a run invalid if the generator takes more than this share of a core.")
]
MaxLag = Annotated[
    float,
    typer.Option("--max-lag-ms", help="Call a run invalid if the p99 of the lag behind the schedule is above this."),
]


def main(
    context: typer.Context,
    address: Address = "",
    metrics: MetricsUrl = "",
    users: Annotated[
        int, typer.Option(min=1, help="Simulate so many users at once, at least one for each endpoint.")
    ] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Send requests for so many seconds.")] = 60,
    open_loop: Annotated[
        bool, typer.Option("--open", help="Send requests on a schedule, whether or not earlier ones were answered.")
    ] = False,
    rate: Annotated[float, typer.Option(help="With --open, send so many requests of the whole mix per second.")] = 4.0,
    arrivals: Arrivals = "poisson",
    seed: Seed = 0,
    mix_file: MixFile = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Send the calls of this calls.csv again, at the same times. It takes the place of --rate."),
    ] = None,
    max_in_flight: MaxInFlight = 1000,
    max_cpu_share: MaxCpuShare = Limits.cpu_share,
    max_lag_ms: MaxLag = Limits.lag_p99_ms,
    slo_file: SloFile = slo.DEFAULT_FILE,
    door: Door = True,
    out: Annotated[Path, typer.Option(help="Write report.html, report.json and *.csv into this folder.")] = Path(
        "out/loadtest"
    ),
) -> None:
    """Load a server with a mix of requests and hold the response times against objectives."""
    limits = Limits(max_cpu_share, max_lag_ms)
    with errors_told():
        asked = mix.load(mix_file)
        if replay:
            refuse_beside_replay(context)
            planned = read_calls(replay, asked)
            asked = asked.only(sorted({arrival.endpoint for arrival in planned}, key=list(asked.endpoints).index))
            open_loop, seconds = True, max(planned[-1].at_s, 1.0)
        else:
            planned = schedule([Phase(rate, seconds)], asked.weights, arrivals, seed)
        check_users(users, asked)
        objectives = objectives_of(slo_file, "open" if open_loop else "closed", asked)
        outputs.check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        with target(address, out, metrics, door=door) as server:
            prepare(server, asked)
            progress = Progress()
            load = functools.partial(send_from_users, server.address, users, seconds, progress.count, asked.endpoints)
            if open_loop:
                say(f"{len(planned)} requests due within {seconds:g} s")
                load = functools.partial(send_planned, server, planned, asked, max_in_flight, progress)
            result = observe(load, server, progress, seconds if open_loop else None, objectives, limits, asked)
    write_report(out, result)
    print_result(result)
    raise typer.Exit(result.exit_code)


def refuse_beside_replay(context: typer.Context) -> None:
    """Raise ReplayError where an option is given that says when requests are sent: the recorded file does."""
    for name in ("rate", "seconds", "arrivals", "seed", "users"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":  # Typer's own copy of click has the enumeration.
            raise ReplayError(
                f"--{name}: is not accepted with --replay, whose file says what is sent when; leave it out"
            )


def check_users(users: int, asked: Mix) -> None:
    """Raise MixError if there are fewer users than endpoints: some would not be called."""
    if users < len(asked.endpoints):
        raise MixError(f"--users: {users} is not accepted; accepted: {len(asked.endpoints)} or more, one an endpoint")


def objectives_of(slo_file: Path, load: str, asked: Mix) -> dict[str, Objective]:
    """Return what the file promises of the endpoints that are called."""
    called = recorded_names(asked.endpoints)
    return {n: o for n, o in slo.load(slo_file, load, recorded_names()).items() if n in called}


def prepare(server: Target, asked: Mix) -> dict[str, float]:
    """Let the server check the mix, and warm it up; return how long a request to each endpoint takes, in seconds."""
    mix.check_with_server(server.address, asked, WARM_UP_TIMEOUT_S)
    return warm_up(server.address, asked.endpoints.values())


def send_planned(
    server: Target, planned: Sequence[Arrival], asked: Mix, max_in_flight: int, progress: Progress
) -> list[Call]:
    """Send the planned requests, an open loop."""
    with sender(server.address, TIMEOUT_S, asked.endpoints) as send:
        return send_on_schedule(planned, send, max_in_flight, TIMEOUT_S + DRAIN_S, progress.count)


def observe(
    load: Callable[[], list[Call]],
    server: Target,
    progress: Progress,
    seconds: float | None,
    objectives: Mapping[str, Objective],
    limits: Limits,
    asked: Mix = mix.DEFAULT,
) -> Result:
    """Run `load` while the server's metrics are polled, and hold what came of it against `objectives`.

    Args:
        seconds: for how long requests were due; None in a closed loop, where it is until the last answer.
    """
    poller, meter = Poller(server.metrics), CpuMeter()
    poller.poll()
    with every(POLL_EVERY_S, poller.poll), every(PROGRESS_EVERY_S, progress.tell):
        calls = load()
    poller.poll()
    health = GeneratorHealth.of(calls if seconds else [], meter.share())
    window = seconds or max((c.finished_s for c in calls), default=0.0)
    measured = measure(calls, recorded_names(asked.endpoints), window, {n: o.good_ms for n, o in objectives.items()})
    violations = slo.check_all(objectives, measured)
    invalid, polls = health.bottlenecks(limits), poller.polls
    return Result(calls, measured, window, health, violations, invalid, intervals(polls), whole(polls), asked.name)


def write_report(out: Path, result: Result, more: Sequence[report.Section] = ()) -> None:
    """Write `report.html` (`more` sections at its end), `report.json` and the CSV files."""
    health = asdict(result.health)
    sections = [
        report.verdict(result.violations, result.invalid),
        report.summary(result.measured),
        report.Section("The generator", [report.table(list(health), [list(health.values())])]),
        report.distribution(result.calls, result.measured),
        report.client_timeline(result.calls, bucket_s=max(1.0, result.seconds / 60)),
        report.server_timeline(result.server),
        report.both_sides(result.calls, result.server_whole),
        *more,
    ]
    outputs.write(out / "report.html", report.page("Load test", sections))
    details = {"violations": list(result.violations), "invalid": list(result.invalid)}
    server = [asdict(i) for i in result.server]
    sides = {model: asdict(side) for model, side in result.server_whole.items()}
    outputs.write(
        out / "report.json",
        json.dumps({**result.summary(), **details, "server": server, "server_whole": sides}, indent=1),
    )
    write_csv(out, result.calls, result.measured, result.mix)


def print_result(result: Result) -> None:
    """Print the table, the violations and the JSON line."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{result.seconds:.0f} s of load")
    table.add_column("endpoint", no_wrap=True)
    for heading in ("requests", "failed", "offered/s", "answered/s", "good/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for name, m in result.measured.items():
        rates = (f"{rate:.2f}" for rate in (m.offered_per_s, m.achieved_per_s, m.goodput_per_s))
        times = (_milliseconds(t) for t in (m.p50_ms, m.p95_ms, m.p99_ms))
        table.add_row(name, str(m.requests), str(m.failures), *rates, *times)
    console.print(table)
    health = result.health
    lag = "" if health.lag_p99_ms is None else f", sent late by {health.lag_p99_ms:.1f} ms at p99"
    typer.echo(f"generator: {health.cpu_share:.0%} of a core{lag}, {health.late} late, {health.dropped} dropped")
    for violation in result.violations:
        typer.echo(f"objective not met: {violation}")
    for reason in result.invalid:
        typer.echo(f"invalid run: {reason}")
    typer.echo(json.dumps(result.summary(), allow_nan=False))


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """Say in one line what a person can correct, and end the command with status 2."""
    try:
        yield
    except (slo.ObjectiveError, ScheduleError, MixError, ReplayError, ServerError, OutputError, OSError) as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    typer.run(main)
