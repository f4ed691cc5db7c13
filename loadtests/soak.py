"""`python -m loadtests.soak`: the default mix for hours, and what the server's processes use meanwhile.

Exit status: 0 the objectives of `[closed.*]` were met and memory grew no faster than `[soak]` allows, 1 not,
2 no server or bad arguments, 3 the generator was the bottleneck. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

# First: it imports locust, which monkey-patches what the modules below use.
from loadtests.closed_loop import send_from_users  # isort: skip

import typer

from loadtests import mix, slo
from loadtests.background import every
from loadtests.generator import Limits
from loadtests.memory import Sampler, Slope, Usage, growth_violations, slope
from loadtests.plots import Axis, Line, line_chart
from loadtests.report import Section, paragraph
from loadtests.run import (
    Address,
    Door,
    MetricsUrl,
    MixFile,
    Progress,
    SloFile,
    check_users,
    errors_told,
    objectives_of,
    observe,
    prepare,
    print_result,
    write_report,
)
from loadtests.target import target
from reverie import outputs


def main(
    address: Address = "",
    metrics: MetricsUrl = "",
    pid: Annotated[
        int | None,
        typer.Option(help="Sample the memory of this process and its session: a running server on this machine."),
    ] = None,
    users: Annotated[
        int, typer.Option(min=1, help="Simulate so many users at once, at least one for each endpoint.")
    ] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Send requests for so many seconds.")] = 3600,
    sample_every: Annotated[float, typer.Option(min=0.1, help="Sample the memory every so many seconds.")] = 10,
    mix_file: MixFile = None,
    slo_file: SloFile = slo.DEFAULT_FILE,
    door: Door = True,
    out: Annotated[Path, typer.Option(help="Write report.html, report.json and *.csv into this folder.")] = Path(
        "out/soak"
    ),
) -> None:
    """Load a server for long and say whether its memory grows."""
    with errors_told():
        asked = mix.load(mix_file)
        check_users(users, asked)
        objectives = objectives_of(slo_file, "closed", asked)
        bounds = slo.load_soak(slo_file)
        outputs.check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        with target(address, out, metrics, pid, door=door) as server:
            prepare(server, asked)
            progress = Progress()
            sampler = Sampler(server.pid or 0)
            with every(sample_every, sampler.sample if server.pid else lambda: None):
                result = observe(
                    lambda: send_from_users(server.address, users, seconds, progress.count, asked.endpoints),
                    server,
                    progress,
                    None,
                    objectives,
                    Limits(),
                    asked,
                )
    found = slope(sampler.samples)
    if server.pid:
        growth = growth_violations(found, sampler.samples, bounds)
        result = replace(result, violations=[*result.violations, *growth])
    write_report(out, result, [memory_section(sampler.samples, found)])
    print_result(result)
    typer.echo(json.dumps({**result.summary(), "memory": to_summary(sampler.samples, found)}, allow_nan=False))
    raise typer.Exit(result.exit_code)


def to_summary(samples: Sequence[Usage], found: Slope | None) -> dict[str, Any]:
    """Return what the server's processes used at the beginning and the end, and the slope of their memory."""
    ends = {"first": samples[0], "last": samples[-1]} if samples else {}
    rounded = {when: {k: round(v, 1) for k, v in asdict(usage).items()} for when, usage in ends.items()}
    return {**rounded, "slope": {k: round(v, 2) for k, v in asdict(found).items()} if found else None}


def memory_section(samples: Sequence[Usage], found: Slope | None) -> Section:
    """Draw the memory over time."""
    told = f"{found.mib_per_hour:.1f} MiB an hour ({found.low:.1f} to {found.high:.1f})" if found else "not known"
    lines = [Line("all processes", [(s.at_s, s.mib) for s in samples])]
    chart = line_chart("Memory of the server's processes", Axis("s"), Axis("MiB (PSS)"), lines)
    return Section("Memory", [paragraph(f"Growth after the first fifth: {told}."), chart])


if __name__ == "__main__":
    typer.run(main)
