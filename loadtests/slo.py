"""Service level objectives: read from a TOML file, held against what was measured.

Knows nothing of locust or of which endpoints exist; `load` is told the names that are measured.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loadtests.measure import Measured

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ObjectiveError(ValueError):
    """The objectives cannot be used; the message says which entry, its value and what is accepted."""


@dataclass(frozen=True)
class Objective:
    """What is promised for one endpoint.

    Attributes:
        p95_ms, p99_ms: bounds on percentiles of successful requests; None promises nothing.
        max_failure_ratio: failed requests among all, 0 to 1.
        min_requests: a run with fewer requests proves nothing and does not meet the objective.

    Raises:
        ObjectiveError: a value is not a number in its range.
    """

    p95_ms: float
    p99_ms: float | None = None
    max_failure_ratio: float = 0.0
    min_requests: int = 1

    def __post_init__(self) -> None:
        _check_number("p95_ms", self.p95_ms)
        if self.p99_ms is not None:
            _check_number("p99_ms", self.p99_ms)
        _check_number("max_failure_ratio", self.max_failure_ratio, highest=1)
        _check_number("min_requests", self.min_requests)
        if not isinstance(self.min_requests, int):
            raise ObjectiveError(f"min_requests: {self.min_requests!r} is not accepted; accepted: a whole number")


def check(objective: Objective, measured: Measured) -> list[str]:
    """Say how `measured` breaks `objective`, a sentence a violation; empty if it is met."""
    violations = []
    if measured.requests < objective.min_requests:
        violations.append(f"{measured.requests} requests, at least {objective.min_requests} expected")
    ratio = measured.failures / measured.requests if measured.requests else 0.0
    if ratio > objective.max_failure_ratio:
        violations.append(
            f"{measured.failures} of {measured.requests} requests failed ({ratio:.1%}), "
            f"at most {objective.max_failure_ratio:.1%} may"
        )
    violations += _slower("p95", measured.p95_ms, objective.p95_ms)
    violations += _slower("p99", measured.p99_ms, objective.p99_ms)
    return violations


def load(path: Path, names: Collection[str]) -> dict[str, Objective]:
    """Read a file with one table of `Objective` fields for each endpoint.

    Args:
        path: the TOML file.
        names: the endpoints that are measured; a table for any other is a mistake.

    Raises:
        ObjectiveError: the file cannot be read, is not TOML, or an entry is unknown or out of range.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ObjectiveError(f"{path}: cannot be read ({error.strerror}); give a file with --slo") from None
    except ValueError as error:
        raise ObjectiveError(f"{path}: not TOML ({error})") from None
    return {name: _to_objective(f"{path}: [{name}]", name, table, names) for name, table in tables.items()}


def _to_objective(where: str, name: str, table: Any, names: Collection[str]) -> Objective:
    if name not in names:
        raise ObjectiveError(f"{where}: unknown endpoint; accepted: {', '.join(names)}")
    if not isinstance(table, dict):
        raise ObjectiveError(f"{where}: {table!r} is not accepted; accepted: a table with at least p95_ms")
    accepted = [f.name for f in fields(Objective)]
    if unknown := sorted(table.keys() - set(accepted)):
        raise ObjectiveError(f"{where} {unknown[0]}: unknown key; accepted: {', '.join(accepted)}")
    if "p95_ms" not in table:
        raise ObjectiveError(f"{where} p95_ms: missing; every endpoint needs one")
    try:
        return Objective(**table)
    except ObjectiveError as error:
        raise ObjectiveError(f"{where} {error}") from None


def _check_number(name: str, value: Any, highest: float = math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= highest:
        accepted = "a number from 0" + ("" if highest == math.inf else f" to {highest:g}")
        raise ObjectiveError(f"{name}: {value!r} is not accepted; accepted: {accepted}")


def _slower(name: str, measured: float | None, bound: float | None) -> list[str]:
    if bound is None or (measured is not None and measured <= bound):
        return []
    return [f"{name} is {'unknown' if measured is None else f'{measured:.0f} ms'}, at most {bound:g} ms promised"]
