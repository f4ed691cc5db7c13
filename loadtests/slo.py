"""Service level objectives: read from a TOML file, held against what was measured.

Knows nothing of locust or of which endpoints exist; `load` is told the names that are measured. The file has a
table for each load ("closed", "open", "capacity") and in it one for each name; `overload` and `soak` bound what
the commands of these names find.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from loadtests.measure import Measured
from reverie.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOADS = ("closed", "open", "capacity")
DEFAULT_FILE = Path(str(files("loadtests") / "slo.toml"))


class ObjectiveError(InputError):
    """The objectives cannot be used; the message says which entry, its value and what is accepted."""


@dataclass(frozen=True)
class Objective:
    """What is promised for one endpoint.

    Attributes:
        p95_ms, p99_ms: bounds on percentiles of successful requests; None promises nothing.
        max_failure_ratio: failed requests among all, 0 to 1.
        min_requests: a run with fewer requests proves nothing and does not meet the objective.
        min_goodput_ratio: answers within `good_ms` among all requests, 0 to 1.
        min_achieved_ratio: rate of answers over rate of requests, 0 to 1: whether the server kept up.

    Raises:
        ObjectiveError: a value is not a number in its range.
    """

    p95_ms: float
    p99_ms: float | None = None
    max_failure_ratio: float = 0.0
    min_requests: int = 1
    min_goodput_ratio: float = 0.0
    min_achieved_ratio: float = 0.0

    def __post_init__(self) -> None:
        _check_number("p95_ms", self.p95_ms)
        if self.p99_ms is not None:
            _check_number("p99_ms", self.p99_ms)
        for name in ("max_failure_ratio", "min_goodput_ratio", "min_achieved_ratio"):
            _check_number(name, getattr(self, name), highest=1)
        _check_number("min_requests", self.min_requests)
        if not isinstance(self.min_requests, int):
            raise ObjectiveError(f"min_requests: {self.min_requests!r} is not accepted; accepted: a whole number")

    @property
    def good_ms(self) -> float:
        """Within this, a single answer is good: the highest bound that is promised."""
        return self.p95_ms if self.p99_ms is None else max(self.p95_ms, self.p99_ms)


@dataclass(frozen=True)
class OverloadBounds:
    """What must hold at three times capacity.

    Attributes:
        goodput_at_3x: goodput over that at capacity, at least.
        p99_ratio_at_3x: p99 of accepted requests over that at capacity, at most.
        reject_ms_p99: p99 of the time to a refusal, at most.
        recovery_seconds: after the surge until answers are good again, at most.
    """

    goodput_at_3x: float = 0.9
    p99_ratio_at_3x: float = 2.0
    reject_ms_p99: float = 100.0
    recovery_seconds: float = 5.0

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_number(f.name, getattr(self, f.name))


@dataclass(frozen=True)
class SoakBounds:
    """What must hold over a long run.

    Attributes:
        max_growth_mib_per_hour: slope of the memory of the server's processes.
    """

    max_growth_mib_per_hour: float = 64.0

    def __post_init__(self) -> None:
        _check_number("max_growth_mib_per_hour", self.max_growth_mib_per_hour)


Entry = TypeVar("Entry", Objective, OverloadBounds, SoakBounds)


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
    good = measured.good / measured.requests if measured.requests else 0.0
    violations += _too_few(f"good answers (within {objective.good_ms:g} ms)", good, objective.min_goodput_ratio)
    achieved = measured.achieved_per_s / measured.offered_per_s if measured.offered_per_s else 0.0
    violations += _too_few("achieved rate over offered rate", achieved, objective.min_achieved_ratio)
    return violations


def check_all(objectives: Mapping[str, Objective], measured: Mapping[str, Measured]) -> list[str]:
    """Every violation of every objective, each after its name."""
    return [f"{n}: {v}" for n, objective in objectives.items() for v in check(objective, measured[n])]


def load(path: Path, load: str, names: Collection[str]) -> dict[str, Objective]:
    """Read what a file promises under one of `LOADS`: a table of `Objective` fields for each endpoint.

    Args:
        path: the TOML file.
        load: which load; a file without it promises nothing under it.
        names: the endpoints that are measured; a table for any other is a mistake.

    Raises:
        ObjectiveError: the file cannot be read, is not TOML, or an entry is unknown or out of range.
    """
    tables = _read(path).get(load, {})
    where = f"{path}: [{load}"
    if not isinstance(tables, dict):
        raise ObjectiveError(f"{where}]: {tables!r} is not accepted; accepted: a table for each endpoint")
    return {name: _to_objective(f"{where}.{name}]", name, table, names) for name, table in tables.items()}


def load_overload(path: Path) -> OverloadBounds:
    """The file's table `overload`, or the defaults."""
    return _to_entry(OverloadBounds, f"{path}: [overload]", _read(path).get("overload", {}))


def load_soak(path: Path) -> SoakBounds:
    """The file's table `soak`, or the defaults."""
    return _to_entry(SoakBounds, f"{path}: [soak]", _read(path).get("soak", {}))


def _read(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ObjectiveError(f"{path}: cannot be read ({error.strerror}); give a file with --slo") from None
    except ValueError as error:
        raise ObjectiveError(f"{path}: not TOML ({error})") from None
    accepted = (*LOADS, "overload", "soak")
    if unknown := sorted(tables.keys() - set(accepted)):
        raise ObjectiveError(f"{path}: [{unknown[0]}]: unknown table; accepted: {', '.join(accepted)}")
    return tables


def _to_objective(where: str, name: str, table: Any, names: Collection[str]) -> Objective:
    if name not in names:
        raise ObjectiveError(f"{where}: unknown endpoint; accepted: {', '.join(names)}")
    if isinstance(table, dict) and "p95_ms" not in table:
        _refuse_unknown(Objective, where, table)
        raise ObjectiveError(f"{where} p95_ms: missing; every endpoint needs one")
    return _to_entry(Objective, where, table)


def _to_entry(kind: type[Entry], where: str, table: Any) -> Entry:
    if not isinstance(table, dict):
        raise ObjectiveError(f"{where}: {table!r} is not accepted; accepted: a table")
    _refuse_unknown(kind, where, table)
    try:
        return kind(**table)
    except ObjectiveError as error:
        raise ObjectiveError(f"{where} {error}") from None


def _refuse_unknown(kind: type, where: str, table: dict[str, Any]) -> None:
    accepted = [f.name for f in fields(kind)]
    if unknown := sorted(table.keys() - set(accepted)):
        raise ObjectiveError(f"{where} {unknown[0]}: unknown key; accepted: {', '.join(accepted)}")


def _check_number(name: str, value: Any, highest: float = math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= highest:
        accepted = "a number from 0" + ("" if highest == math.inf else f" to {highest:g}")
        raise ObjectiveError(f"{name}: {value!r} is not accepted; accepted: {accepted}")


def _slower(name: str, measured: float | None, bound: float | None) -> list[str]:
    if bound is None or (measured is not None and measured <= bound):
        return []
    return [f"{name} is {'unknown' if measured is None else f'{measured:.0f} ms'}, at most {bound:g} ms promised"]


def _too_few(name: str, ratio: float, bound: float) -> list[str]:
    return [] if ratio >= bound else [f"{name}: {ratio:.1%}, at least {bound:.1%} promised"]
