"""`make faults`: break a running server in every way that is known, while clients call it, and see that it comes back.

The server is `reverie serve` with the shipped models, in a process of its own. While it is broken and until it is well
again, one client for each interactive endpoint goes on calling with a deadline. A fault is *survived* where

- every call ended within its deadline, with an answer or a reason;
- the endpoints that the fault has nothing to do with answered all the while (`unaffected`);
- all endpoints answer again within a minute without anybody's help;
- nothing is left behind (`leaks`): processes, and of the faults that leave Triton running also descriptors, threads and
  places for streams.

The last line of stdout is JSON; the exit status is 1 where a fault was not survived or something leaked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests.calls import Call, make_call
from loadtests.endpoints import ENDPOINTS, Caller
from loadtests.faults.faults import NOT_TRIED, Fault, faults
from loadtests.faults.probe_clients import WATCHED, ProbeClients, failures, is_clear
from loadtests.faults.served import Resources, Served, serving
from loadtests.target import say, warm_up
from registry.configuration import generate

RECOVERED_WITHIN_S = 60.0
_SETTLES_WITHIN_S = 15.0
_TOLERANCE = {"processes": 0, "regions": 0, "descriptors": 12, "threads": 12}
"""What may be open more than before: connections of the clients that watch, threads of pools that grow with use."""
_KEPT_OF_THE_DEAD = {"processes": 1, "regions": 1, "descriptors": 8, "threads": 40}
"""What Triton keeps of each process of a model that ended, until it is started again."""


@dataclass(frozen=True)
class FaultResult:
    """What a fault did.

    Attributes:
        recovery_seconds: from its end to good answers everywhere; None where it took too long.
        calls: of the clients meanwhile; failed: by endpoint and status.
        faults: why it was not survived, in words.
    """

    survived: bool
    recovery_seconds: float | None
    calls: int
    failed: dict[str, dict[str, int]]
    faults: list[str]


def main(
    vanishing: Annotated[int, typer.Option(min=1, help="Kill so many clients in the middle of a stream.")] = 1000,
    only: Annotated[list[str] | None, typer.Option(help="Try this fault alone. Repeat it for several faults.")] = None,
) -> None:
    """Break a running server in every known way while clients call it, and check that it recovers.

    The log of the server goes to out/faults/server.log. The last line of stdout is JSON.
    The exit status is 1 if a fault was not survived or something leaked.
    """
    out = Path("out") / "faults"
    out.mkdir(parents=True, exist_ok=True)
    chosen = choose(faults(vanishing), only or [])
    result = run(chosen, out) | {"clients_killed": vanishing if "clients_killed" in {f.name for f in chosen} else 0}
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["faults_survived"] == result["faults_tried"] and not result["leaks"] else 1)


def choose(every: Sequence[Fault], only: Sequence[str]) -> list[Fault]:
    """Return the faults named in `only`; all of them where it is empty.

    Raises:
        typer.BadParameter: a name is unknown.
    """
    if unknown := sorted(set(only) - {fault.name for fault in every}):
        accepted = ", ".join(fault.name for fault in every)
        raise typer.BadParameter(f"{unknown[0]!r} is not a fault; accepted: {accepted}", param_hint="--only")
    return [fault for fault in every if not only or fault.name in only]


def run(chosen: Sequence[Fault], out: Path, without: Iterable[str] = ()) -> dict[str, Any]:
    """Try the faults one after another on one server; its log goes to the folder `out`.

    Args:
        without: models that the server does not have.
    """
    with serving(out / "server.log", without) as served:
        warm_up(served.address, [ENDPOINTS[name] for name in WATCHED])
        at_first, first_triton = served.resources(), served.triton
        skipped = {
            f.name: "needs mounts of its own (root)" for f in chosen if f.needs_isolation and not served.isolated
        }
        outcomes, leaks = {}, []
        for fault in [f for f in chosen if f.name not in skipped]:
            before, triton = served.resources(), served.triton
            outcomes[fault.name] = outcome = try_fault(fault, served)
            kinds = _TOLERANCE if served.triton == triton else ("processes", "regions")
            leaks += [f"{fault.name}: {leak}" for leak in _left_behind(served, before, kinds, fault.ends)]
            say(f"{fault.name}: {'survived' if outcome.survived else 'NOT SURVIVED'}: {asdict(outcome)}")
        if served.triton != first_triton:
            leaks += [f"after all: {leak}" for leak in _left_behind(served, at_first, ("processes", "regions"))]
        places = _places()
        free = _free_places(served.address, places)
        leaks += [f"{places - free} of {places} places for streams"] if free < places else []
    return {
        "faults_tried": len(outcomes),
        "faults_survived": sum(o.survived for o in outcomes.values()),
        "leaks": leaks,
        "recovery_seconds": max((o.recovery_seconds for o in outcomes.values() if o.recovery_seconds), default=None),
        "faults": {name: asdict(outcome) for name, outcome in outcomes.items()},
        "not_tried": NOT_TRIED | skipped,
    }


def try_fault(fault: Fault, served: Served) -> FaultResult:
    """Inject a fault into `served` while probe clients call it, and wait for the recovery."""
    with ProbeClients(served.address) as probes:
        if probes.wait_for_recovery(RECOVERED_WITHIN_S) is None:
            return FaultResult(False, None, len(probes.seen), failures(probes.seen), ["it was not well before"])
        began = time.monotonic()
        with fault.inject(served):
            time.sleep(fault.holds_s)
        recovered = probes.wait_for_recovery(RECOVERED_WITHIN_S)
    seen = [c for c in probes.seen if c.finished_s >= began]
    found = violations(fault, seen, recovered)
    return FaultResult(not found, None if recovered is None else round(recovered, 2), len(seen), failures(seen), found)


def violations(fault: Fault, seen: Sequence[Call], recovered: float | None) -> list[str]:
    """Say why a fault was not survived, a sentence a reason.

    Args:
        seen: the probe clients' calls since the fault began.
        recovered: seconds to the recovery; None if it took too long.
    """
    found = [f"{c.endpoint} ended after {c.milliseconds / 1000:.1f} s: {c.error}" for c in seen if not is_clear(c)]
    hit = [c for c in seen if c.error and c.endpoint in fault.unaffected]
    found += [f"{c.endpoint} should be unaffected: {c.error}" for c in hit]
    return found + ([f"not well {RECOVERED_WITHIN_S:.0f} s after"] if recovered is None else [])


def _left_behind(served: Served, before: Resources, kinds: Iterable[str], ended: int = 0) -> list[str]:
    """What there is more than before, once it has had time to go; after so many processes of models have ended."""

    def more() -> list[str]:
        now = served.resources()
        grown = {kind: getattr(now, kind) - getattr(before, kind) for kind in kinds}
        allowed = {kind: _TOLERANCE[kind] + ended * _KEPT_OF_THE_DEAD[kind] for kind in kinds}
        return [f"{count} {kind} more than before" for kind, count in grown.items() if count > allowed[kind]]

    end = time.monotonic() + _SETTLES_WITHIN_S
    while (found := more()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _places() -> int:
    """Streams that `generate` takes at once, on a server with this machine's cores; free after callers vanished."""
    settings = {parameter.name: parameter.value for parameter in generate().parameters}
    workers = int(settings["workers"]) or len(os.sched_getaffinity(0))
    return workers * (int(settings["slots"]) + int(settings["max_waiting"]))


def _free_places(address: str, places: int) -> int:
    """How many streams `generate` carries at once now, of as many as it should."""

    def ask(seed: int) -> bool:
        with Caller(address, timeout=60) as client:
            return not make_call(ENDPOINTS["generate"], client, seed).error

    with ThreadPoolExecutor(places) as pool:
        return sum(pool.map(ask, range(places)))


if __name__ == "__main__":
    typer.run(main)
