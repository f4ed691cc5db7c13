"""Service level objectives: read from a TOML file, held against what was measured.

Knows nothing of locust or of which endpoints exist; `load` is told the names that are measured. The file has a
table for each load ("closed", "open", "capacity") and in it one for each name; `overload` and `soak` bound what
the commands of these names find.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from loadtests.measure import Measured
from reverie.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOADS = ("closed", "open", "capacity")
DEFAULT_FILE = Path(str(files("loadtests") / "slo.toml"))

Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
_AS_WRITTEN = ConfigDict(strict=True, extra="forbid")
"""A text or a boolean does not pass for a number, and a key that is not known is a mistake."""


class ObjectiveError(InputError):
    """The objectives cannot be used; the message says which entry, its value and what is accepted."""


@dataclass(frozen=True, config=_AS_WRITTEN)
class Objective:
    """What is promised for one endpoint.

    Attributes:
        p95_ms, p99_ms: bounds on percentiles of successful requests; None promises nothing.
        max_failure_ratio: failed requests among all, 0 to 1.
        min_requests: a run with fewer requests proves nothing and does not meet the objective.
        min_goodput_ratio: answers within `good_ms` among all requests, 0 to 1.
        min_achieved_ratio: rate of answers over rate of requests, 0 to 1: whether the server kept up.

    Raises:
        pydantic.ValidationError: a value is not a number in its range.
    """

    p95_ms: Bound
    p99_ms: Bound | None = None
    max_failure_ratio: Ratio = 0.0
    min_requests: Count = 1
    min_goodput_ratio: Ratio = 0.0
    min_achieved_ratio: Ratio = 0.0

    @property
    def good_ms(self) -> float:
        """Within this, a single answer is good: the highest bound that is promised."""
        return self.p95_ms if self.p99_ms is None else max(self.p95_ms, self.p99_ms)


@dataclass(frozen=True, config=_AS_WRITTEN)
class OverloadBounds:
    """What must hold at three times capacity.

    Attributes:
        goodput_at_3x: goodput over that at capacity, at least.
        p99_ratio_at_3x: p99 of accepted requests over that at capacity, at most.
        reject_ms_p99: p99 of the time to a refusal, at most.
        recovery_seconds: after the surge until answers are good again, at most.
    """

    goodput_at_3x: Bound = 0.9
    p99_ratio_at_3x: Bound = 2.0
    reject_ms_p99: Bound = 100.0
    recovery_seconds: Bound = 5.0


@dataclass(frozen=True, config=_AS_WRITTEN)
class SoakBounds:
    """What must hold over a long run.

    Attributes:
        max_growth_mib_per_hour: slope of the memory of the server's processes.
    """

    max_growth_mib_per_hour: Bound = 64.0


Entry = TypeVar("Entry", Objective, OverloadBounds, SoakBounds)
_UNKNOWN = "unexpected_keyword_argument"
"""pydantic's name for a key that a table must not have."""


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
    """Say every violation of every objective, each after its name."""
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
    """Read the file's table `overload`; what it leaves out has its default."""
    return _to_entry(OverloadBounds, f"{path}: [overload]", _read(path).get("overload", {}))


def load_soak(path: Path) -> SoakBounds:
    """Read the file's table `soak`; what it leaves out has its default."""
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
    return _to_entry(Objective, where, table)


def _to_entry(kind: type[Entry], where: str, table: Any) -> Entry:
    if not isinstance(table, dict):
        raise ObjectiveError(f"{where}: {table!r} is not accepted; accepted: a table")
    try:
        return kind(**table)
    except ValidationError as refused:
        # An unknown key first: what is missing beside it is what was meant.
        error = min(refused.errors(), key=lambda e: e["type"] != _UNKNOWN)
        raise ObjectiveError(f"{where} {_describe(error, kind)}") from None


def _describe(error: ErrorDetails, kind: type) -> str:
    """What is wrong with a key, its value, and what is accepted."""
    key, accepted = str(error["loc"][0]), _accepted(kind)
    if error["type"] == _UNKNOWN:
        return f"{key}: unknown key; accepted: {', '.join(accepted)}"
    if error["type"] == "missing":
        return f"{key}: missing; give {accepted[key]}"
    return f"{key}: {error['input']!r} is not accepted; accepted: {accepted[key]}"


def _accepted(kind: type) -> dict[str, str]:
    """What each key of `kind` takes, in words."""
    return {name: _in_words(schema) for name, schema in TypeAdapter(kind).json_schema()["properties"].items()}


def _in_words(schema: Mapping[str, Any]) -> str:
    schema = next((s for s in schema.get("anyOf", ()) if s["type"] != "null"), schema)
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    highest = f" to {schema['maximum']:g}" if "maximum" in schema else ""
    return f"{noun} from {schema['minimum']:g}{highest}"


def _slower(name: str, measured: float | None, bound: float | None) -> list[str]:
    if bound is None or (measured is not None and measured <= bound):
        return []
    return [f"{name} is {'unknown' if measured is None else f'{measured:.0f} ms'}, at most {bound:g} ms promised"]


def _too_few(name: str, ratio: float, bound: float) -> list[str]:
    return [] if ratio >= bound else [f"{name}: {ratio:.1%}, at least {bound:.1%} promised"]
