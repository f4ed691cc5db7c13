"""`python -m loadtests.compare A B`: two servers (versions, models, machines) under the same load, in turns.

Each round sends one seeded open-loop schedule to both addresses, one after the other, the order changing from
round to round, so that what drifts on the machine drifts for both. Progress goes to stderr, a table and a last
line of JSON to stdout. Exit status: 0 B is nowhere shown to be slower or to fail more, 1 it is, 2 no server or bad
arguments, 3 the generator was the bottleneck.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

# First: it imports locust, which monkey-patches what the modules below use.
from loadtests.run import errors_told  # isort: skip

import typer
from markupsafe import Markup
from scipy.stats import fisher_exact

from loadtests import mix, report
from loadtests.arrivals import Phase, schedule
from loadtests.bootstrap import Difference, compare
from loadtests.calls import Call
from loadtests.endpoints import recorded_names
from loadtests.generator import CpuMeter, GeneratorHealth, Limits
from loadtests.measure import times_of
from loadtests.mix import Mix
from loadtests.open_loop import send_on_schedule
from loadtests.plots import Axis, Line, line_chart
from loadtests.run import Arrivals, MaxCpuShare, MaxInFlight, MaxLag, MixFile, Seed, prepare
from loadtests.target import say, sender, target
from reverie import outputs

RANKS = (50.0, 95.0)
FAILURE_SIGNIFICANCE = 0.01
"""Of Fisher's exact test that B fails more often than A."""


@dataclass(frozen=True)
class Compared:
    """Both servers in every round, and what follows."""

    rounds: Sequence[tuple[Sequence[Call], Sequence[Call]]]
    differences: Mapping[str, Sequence[Difference]]
    invalid: Sequence[str] = ()

    @property
    def failures(self) -> tuple[int, int]:
        """Failed calls of A and of B."""
        a, b = (sum(bool(c.error) for calls in side for c in calls) for side in zip(*self.rounds, strict=True))
        return a, b

    @property
    def fails_more(self) -> bool:
        """Whether B fails more often than chance explains."""
        totals = [sum(map(len, side)) for side in zip(*self.rounds, strict=True)]
        counts = [
            [failed, total - failed] for failed, total in zip(reversed(self.failures), reversed(totals), strict=True)
        ]
        return bool(fisher_exact(counts, alternative="greater").pvalue < FAILURE_SIGNIFICANCE)

    @property
    def verdict(self) -> str:
        """One sentence about all endpoints."""
        verdicts = [d.verdict for found in self.differences.values() for d in found]
        if self.fails_more:
            return "B fails more often"
        for decisive in ("B is slower", "too few rounds", "B is faster"):
            if decisive in verdicts:
                return decisive
        return "no difference shown" if verdicts else "nothing was answered by both"

    @property
    def exit_code(self) -> int:
        bad = self.verdict in ("B fails more often", "B is slower", "nothing was answered by both")
        return 3 if self.invalid else 1 if bad else 0

    def summary(self) -> dict[str, Any]:
        """Return the JSON line."""
        return {
            "verdict": self.verdict,
            "rounds": len(self.rounds),
            "failures": dict(zip("AB", self.failures, strict=True)),
            "differences": {name: [_rounded(d) for d in found] for name, found in self.differences.items()},
            "valid": not self.invalid,
        }


def main(
    a: Annotated[str, typer.Argument(help="gRPC address of the first server.")],
    b: Annotated[str, typer.Argument(help="gRPC address of the second server.")],
    endpoints: Annotated[
        str, typer.Option(help="Call these endpoints; put commas between them. Empty calls the whole mix.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Load each server so often.")] = 8,
    window: Annotated[float, typer.Option(min=1, help="Load each server for so many seconds a round.")] = 15.0,
    rate: Annotated[float, typer.Option(help="Send so many requests of the whole mix per second.")] = 3.0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Give up a request after so many seconds.")] = 30.0,
    arrivals: Arrivals = "poisson",
    seed: Seed = 0,
    mix_file: MixFile = None,
    max_in_flight: MaxInFlight = 1000,
    max_cpu_share: MaxCpuShare = Limits.cpu_share,
    max_lag_ms: MaxLag = Limits.lag_p99_ms,
    out: Annotated[Path, typer.Option(help="Write report.html and report.json into this folder.")] = Path(
        "out/compare"
    ),
) -> None:
    """Load two servers in turns with the same requests and say which is slower."""
    with errors_told():
        asked = _chosen(mix.load(mix_file), endpoints)
        schedules = [schedule([Phase(rate, window)], asked.weights, arrivals, seed + i) for i in range(rounds)]
        outputs.check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        for address in (a, b):
            with target(address, out) as server:
                prepare(server, asked)
        meter, collected = CpuMeter(), []
        with sender(a, deadline, asked.endpoints) as to_a, sender(b, deadline, asked.endpoints) as to_b:
            for number, planned in enumerate(schedules):
                order = ((0, to_a), (1, to_b)) if number % 2 == 0 else ((1, to_b), (0, to_a))
                sent = {i: send_on_schedule(planned, to, max_in_flight, deadline + 5) for i, to in order}
                collected.append((sent[0], sent[1]))
                say(f"round {number + 1} of {rounds}")
    everything = [c for pair in collected for side in pair for c in side]
    health = GeneratorHealth.of(everything, meter.share())
    limits = Limits(max_cpu_share, max_lag_ms)
    result = Compared(collected, differences(collected, seed), health.bottlenecks(limits))
    outputs.write(out / "report.html", to_page(result))
    outputs.write(out / "report.json", json.dumps(result.summary(), indent=1))
    for name, found in result.differences.items():
        for d in found:
            typer.echo(f"{name}: {_sentence(d)}")
    typer.echo(json.dumps(result.summary(), allow_nan=False))
    raise typer.Exit(result.exit_code)


def differences(rounds: Sequence[tuple[Sequence[Call], Sequence[Call]]], seed: int = 0) -> dict[str, list[Difference]]:
    """Compare the p50 and p95 of every name that both servers answered."""
    found = {}
    for name in recorded_names():
        times = [(times_of(name, a), times_of(name, b)) for a, b in rounds]
        compared = [d for rank in RANKS if (d := compare(times, rank, seed)) is not None]
        if compared:
            found[name] = compared
    return found


def to_page(result: Compared) -> str:
    """Return the report: the verdict, the intervals, both distributions."""
    rows = [
        [name, f"p{d.rank:g}", d.a_ms, d.b_ms, d.low_ms, d.high_ms, d.verdict]
        for name, ds in result.differences.items()
        for d in ds
    ]
    header = ["", "percentile", "A ms", "B ms", "B - A from, ms", "to, ms", ""]
    invalid = [report.verdict((), result.invalid)] if result.invalid else []
    charts = [_distributions(name, result) for name in result.differences]
    return report.page(
        "A against B",
        [
            *invalid,
            report.Section(result.verdict, [report.table(header, rows)]),
            report.Section("Distributions", charts),
        ],
    )


def _distributions(name: str, result: Compared) -> Markup:
    sides = zip("AB", zip(*result.rounds, strict=True), strict=True)
    lines = [
        Line(letter, report.cumulative([t for calls in side for t in times_of(name, calls)])) for letter, side in sides
    ]
    return line_chart(name, Axis("milliseconds", is_log=True), Axis("% of answers"), lines)


def _chosen(asked: Mix, endpoints: str) -> Mix:
    names = [name.strip() for name in endpoints.split(",") if name.strip()] or list(asked.endpoints)
    if unknown := [name for name in names if name not in asked.endpoints]:
        raise typer.BadParameter(f"{unknown[0]!r} is unknown; accepted: {', '.join(asked.endpoints)}")
    return asked.only(names)


def _rounded(difference: Difference) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(difference).items()}


def _sentence(d: Difference) -> str:
    interval = f"B - A between {d.low_ms:.1f} and {d.high_ms:.1f} ms"
    return f"p{d.rank:g} {d.a_ms:.1f} ms and {d.b_ms:.1f} ms, {interval}: {d.verdict}"


if __name__ == "__main__":
    typer.run(main)
