"""`python -m loadtests.capacity`: the highest rate of each endpoint alone that meets its objectives, and overload.

Every step is a short open loop (`[capacity.*]` in `slo.toml` holds the objectives); then a run at capacity, at
three times it, and at half of it shows what a surge does and how long it lingers (`[overload]`), the median of
several such rounds. Progress goes to stderr, a table and a last line of JSON to stdout. Exit status: 0 all bounds met,
1 not met, 2 no server or bad arguments, 3 the generator was the bottleneck of a step that decided.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

# First: it imports locust, which monkey-patches what the modules below use.
from loadtests.run import POLL_EVERY_S  # isort: skip

import typer
from markupsafe import Markup

from loadtests import mix, report, slo
from loadtests.arrivals import Phase, schedule
from loadtests.background import every
from loadtests.calls import Call
from loadtests.generator import CpuMeter, GeneratorHealth, Limits
from loadtests.measure import Measured, measure
from loadtests.mix import Mix
from loadtests.open_loop import Send, send_on_schedule
from loadtests.plots import Axis, Line, line_chart
from loadtests.run import (
    Address,
    Arrivals,
    Door,
    MaxCpuShare,
    MaxInFlight,
    MaxLag,
    MetricsUrl,
    MixFile,
    Seed,
    SloFile,
    errors_told,
    objectives_of,
    prepare,
)
from loadtests.search import Overload, Search, highest_rate, overload, typical, worst
from loadtests.server_metrics import Interval, Poller, intervals
from loadtests.slo import Objective, ObjectiveError
from loadtests.target import Target, say, sender, target
from reverie import outputs

SURGE = 3.0
AFTER = 0.5
"""Rates of the surge, and after it, over the capacity."""
FIRST = 0.5
"""The first rate tried, over that of one request after the other on an idle server."""


@dataclass(frozen=True)
class Plan:
    """How long each step takes, and what limits the generator.

    Attributes:
        window_s: a step's length at least.
        min_requests: a step is long enough for so many requests.
        surge_s: length of the surge, and of the watch after it.
        rounds: of capacity, surge and watch.
        deadline_s: of every request.
    """

    window_s: float = 10.0
    min_requests: int = 20
    surge_s: float = 10.0
    rounds: int = 3
    deadline_s: float = 10.0
    arrivals: str = "poisson"
    seed: int = 0
    max_in_flight: int = 1000
    limits: Limits = field(default_factory=Limits)
    search: Search = field(default_factory=Search)

    def seconds(self, rate: float) -> float:
        """Return the length of a step at `rate`, in seconds."""
        return max(self.window_s, self.min_requests / rate)


@dataclass(frozen=True)
class Step:
    """One rate tried: what was measured, how it breaks the objective, why it may not count."""

    rate: float
    measured: Measured
    violations: Sequence[str]
    invalid: Sequence[str]

    @property
    def is_met(self) -> bool:
        return not self.violations


@dataclass(frozen=True)
class Surge:
    """One round at capacity, at three times it, and below it."""

    result: Overload
    calls: Sequence[Call]
    server: Sequence[Interval]
    invalid: Sequence[str]


@dataclass(frozen=True)
class EndpointCapacity:
    """What one endpoint can take; `rate` is None, and there is no overload, where no rate met its objective.

    Attributes:
        rounds: what each surge did.
        surge_calls, server: of the last round.
    """

    endpoint: str
    steps: Sequence[Step]
    rate: float | None = None
    rounds: Sequence[Overload] = ()
    surge_calls: Sequence[Call] = ()
    server: Sequence[Interval] = ()
    invalid: Sequence[str] = ()

    @property
    def overload(self) -> Overload | None:
        """The median of the rounds."""
        return typical(self.rounds) if self.rounds else None

    def violations(self, bounds: slo.OverloadBounds) -> list[str]:
        if self.overload is None:
            return [f"{self.endpoint}: no rate met its objective"]
        return [f"{self.endpoint}: {v}" for v in self.overload.violations(bounds)]


def main(
    address: Address = "",
    metrics: MetricsUrl = "",
    endpoints: Annotated[
        str, typer.Option(help="Test these endpoints; put commas between them. Empty tests all that have an objective.")
    ] = "",
    window: Annotated[float, typer.Option(min=1, help="Let each step last at least so many seconds.")] = Plan.window_s,
    surge: Annotated[
        float, typer.Option(min=1, help="Let the surge last so many seconds, and the phase after it as long.")
    ] = Plan.surge_s,
    rounds: Annotated[
        int, typer.Option(min=1, help="Repeat capacity, surge and the phase after it so often. The median counts.")
    ] = Plan.rounds,
    min_requests: Annotated[
        int, typer.Option(min=1, help="Let each step last long enough for so many requests.")
    ] = Plan.min_requests,
    precision: Annotated[
        float, typer.Option(min=0.01, help="Stop the search this close to a rate that fails: 0.05 is 5 %.")
    ] = Search.precision,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Give up a request after so many seconds.")
    ] = Plan.deadline_s,
    arrivals: Arrivals = "poisson",
    seed: Seed = 0,
    mix_file: MixFile = None,
    max_in_flight: MaxInFlight = 1000,
    max_cpu_share: MaxCpuShare = Limits.cpu_share,
    max_lag_ms: MaxLag = Limits.lag_p99_ms,
    slo_file: SloFile = slo.DEFAULT_FILE,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart/--together",
            help="Give half of the cores to a server that is started here, and the others to the generator.",
        ),
    ] = True,
    door: Door = True,
    out: Annotated[Path, typer.Option(help="Write report.html and report.json into this folder.")] = Path(
        "out/capacity"
    ),
) -> None:
    """Find the highest rate that each endpoint alone sustains within its objectives, then overload it."""
    limits, search = Limits(max_cpu_share, max_lag_ms), Search(precision)
    plan = Plan(window, min_requests, surge, rounds, deadline, arrivals, seed, max_in_flight, limits, search)
    with errors_told():
        asked = mix.load(mix_file)
        objectives = chosen(objectives_of(slo_file, "capacity", asked), endpoints)
        asked = asked.only(list(objectives))
        bounds = slo.load_overload(slo_file)
        schedule([], {"any": 1}, arrivals)  # Refuses unknown arrivals before a server is started.
        outputs.check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        with target(address, out, metrics, apart=apart, door=door) as server:
            idle = prepare(server, asked)
            found = [explore(server, asked, name, o, FIRST / idle[name], plan) for name, o in objectives.items()]
    violations = [v for f in found for v in f.violations(bounds)]
    invalid = [f"{f.endpoint}: {reason}" for f in found for reason in f.invalid]
    summary = to_summary(found, violations, invalid) | {"server_cores": server.cores}
    outputs.write(out / "report.html", to_page(found, violations, invalid))
    details = {"rounds": rounds_by_endpoint(found), "steps": steps_by_endpoint(found)}
    outputs.write(out / "report.json", json.dumps(summary | details, indent=1))
    for sentence in violations:
        typer.echo(f"bound not met: {sentence}")
    for sentence in invalid:
        typer.echo(f"invalid: {sentence}")
    typer.echo(json.dumps(summary, allow_nan=False))
    raise typer.Exit(3 if invalid else 1 if violations else 0)


def chosen(objectives: Mapping[str, Objective], endpoints: str) -> dict[str, Objective]:
    """Return the objectives of `endpoints`, names with commas between; all for an empty string.

    Raises:
        ObjectiveError: one of them has no objective, or there is none at all.
    """
    names = [name.strip() for name in endpoints.split(",") if name.strip()] or list(objectives)
    if unknown := [name for name in names if name not in objectives]:
        accepted = ", ".join(objectives)
        raise ObjectiveError(f"endpoints: {unknown[0]!r} has no [capacity] objective; accepted: {accepted}")
    if not names:
        raise ObjectiveError("the file has no [capacity] objectives; give one that has with --slo")
    return {name: objectives[name] for name in names}


def explore(
    server: Target, asked: Mix, endpoint: str, objective: Objective, first: float, plan: Plan
) -> EndpointCapacity:
    """Find one endpoint's capacity and overload it."""
    steps: list[Step] = []
    with sender(server.address, plan.deadline_s, asked.endpoints) as send:

        def meets(rate: float) -> bool:
            steps.append(try_rate(send, endpoint, objective, rate, plan))
            return steps[-1].is_met

        rate = highest_rate(meets, first, plan.search)
        if rate is None:
            return EndpointCapacity(endpoint, steps, invalid=deciding_bottlenecks(steps, None))
        surges = [surge_once(server, send, endpoint, objective, rate, plan) for _ in range(plan.rounds)]
    invalid = [*deciding_bottlenecks(steps, rate), *(reason for surge in surges for reason in surge.invalid)]
    last = surges[-1]
    return EndpointCapacity(endpoint, steps, rate, [s.result for s in surges], last.calls, last.server, invalid)


def surge_once(server: Target, send: Send, endpoint: str, objective: Objective, rate: float, plan: Plan) -> Surge:
    """Overload an endpoint whose capacity is `rate`, once."""
    poller, meter = Poller(server.metrics), CpuMeter()
    phases = surge_phases(rate, plan)
    with every(POLL_EVERY_S, poller.poll):
        calls = run_phases(send, endpoint, phases, plan)
    result = overload(calls, objective, (phases[0].seconds, phases[0].seconds + phases[1].seconds))
    say(f"{endpoint}: {rate:.2f}/s; at three times that {asdict(result)}")
    health = GeneratorHealth.of(calls, meter.share())
    return Surge(result, calls, intervals(poller.polls), health.bottlenecks(plan.limits))


def try_rate(send: Send, endpoint: str, objective: Objective, rate: float, plan: Plan) -> Step:
    """Load one endpoint at `rate`, one step of the search."""
    seconds, meter = plan.seconds(rate), CpuMeter()
    calls = run_phases(send, endpoint, [Phase(rate, seconds)], plan)
    health = GeneratorHealth.of(calls, meter.share())
    measured = measure(calls, [endpoint], seconds, {endpoint: objective.good_ms})[endpoint]
    step = Step(rate, measured, slo.check(objective, measured), health.bottlenecks(plan.limits))
    say(f"{endpoint} at {rate:.2f}/s for {seconds:.0f} s: {'; '.join([*step.violations, *step.invalid]) or 'met'}")
    return step


def run_phases(send: Send, endpoint: str, phases: Sequence[Phase], plan: Plan) -> list[Call]:
    """Run an open loop on one endpoint."""
    arrivals = schedule(phases, {endpoint: 1}, plan.arrivals, plan.seed)
    return send_on_schedule(arrivals, send, plan.max_in_flight, drain_s=plan.deadline_s + 5)


def surge_phases(rate: float, plan: Plan) -> list[Phase]:
    """Return the phases of a surge: at capacity, at three times it, and below it."""
    settled = max(plan.surge_s, plan.min_requests / (AFTER * rate))
    return [Phase(rate, plan.seconds(rate)), Phase(SURGE * rate, plan.surge_s), Phase(AFTER * rate, settled)]


def deciding_bottlenecks(steps: Sequence[Step], rate: float | None) -> list[str]:
    """Say why the answer may be the generator's: a step that did not meet the objective, and was not valid.

    Of the failed steps only the slowest above `rate` decides; a step that met its objective in spite of the
    generator has only been made harder by it.
    """
    failed = [s for s in steps if not s.is_met and (rate is None or s.rate > rate)]
    return list(min(failed, key=lambda s: s.rate).invalid) if failed else []


def to_summary(found: Sequence[EndpointCapacity], violations: Sequence[str], invalid: Sequence[str]) -> dict[str, Any]:
    """Return the JSON line: the capacity of each endpoint, and the worst of each measure of overload."""
    overloads = [f.overload for f in found if f.overload]
    return {
        "capacity_rps": {f.endpoint: _rounded(f.rate) for f in found},
        **{name: _rounded(value) for name, value in worst(overloads).items()},
        "overload": {f.endpoint: {k: _rounded(v) for k, v in asdict(f.overload).items()} for f in found if f.overload},
        "valid": not invalid,
        "bounds_met": not violations,
    }


def rounds_by_endpoint(found: Sequence[EndpointCapacity]) -> dict[str, list[dict[str, Any]]]:
    """Return every surge for the JSON file."""
    return {f.endpoint: [asdict(o) for o in f.rounds] for f in found}


def steps_by_endpoint(found: Sequence[EndpointCapacity]) -> dict[str, list[dict[str, Any]]]:
    """Return every step for the JSON file."""
    return {f.endpoint: [{**asdict(s), "measured": s.measured.rounded()} for s in f.steps] for f in found}


def to_page(found: Sequence[EndpointCapacity], violations: Sequence[str], invalid: Sequence[str]) -> str:
    """Return the report: latency against rate, what a surge did, the server's view of it."""
    columns = ("goodput_at_3x", "p99_ratio_at_3x", "reject_ms_p99", "recovery_seconds", "refused", "failed")
    rows = [[f.endpoint, f.rate, *(getattr(f.overload, c, None) for c in columns)] for f in found]
    sections = [
        report.verdict(violations, invalid),
        report.Section("Capacity", [report.table(["endpoint", "requests/s", *columns], rows)]),
        report.Section("Latency against rate", [latency_against_rate(f) for f in found]),
    ]
    for f in found:
        for part in (report.client_timeline(f.surge_calls), report.server_timeline(f.server)):
            sections.append(
                report.Section(f"{f.endpoint}: capacity, three times it, half of it. {part.heading}", part.parts)
            )
    return report.page("Capacity and overload", sections)


def latency_against_rate(found: EndpointCapacity) -> Markup:
    """Draw the percentiles of every step over its rate."""
    ordered = sorted(found.steps, key=lambda s: s.rate)
    values: dict[str, Callable[[Measured], float | None]] = {
        "p50": lambda m: m.p50_ms,
        "p95": lambda m: m.p95_ms,
        "p99": lambda m: m.p99_ms,
    }
    lines = [
        Line(name, [(s.rate, y) for s in ordered if (y := value(s.measured)) is not None])
        for name, value in values.items()
    ]
    if found.rate is not None and (highest := max((y for line in lines for _, y in line.points), default=0)):
        lines.append(Line("capacity", [(found.rate, 1), (found.rate, highest)], dashed=True))
    return line_chart(found.endpoint, Axis("offered requests/s"), Axis("milliseconds", is_log=True), lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


if __name__ == "__main__":
    typer.run(main)
