"""A recorded `calls.csv` as a schedule: the same calls at the same times; knows nothing of how they are sent."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from loadtests.arrivals import Arrival
from loadtests.mix import Mix
from reverie.errors import InputError

LATEST_S = 7 * 24 * 3600.0
"""A later call is taken for a mistake: a time of day or of the calendar in place of seconds from the beginning."""


class ReplayError(InputError):
    """A file cannot be replayed; the message says which line and column, the value, and what is accepted."""


def read_calls(path: Path, mix: Mix) -> list[Arrival]:
    """Read the calls of a `calls.csv`, in order of their times.

    Needs the columns `endpoint` and `scheduled_s`. With `seed`, each call asks for what it asked for; a file without it, say
    of another system's log, has what is asked drawn from the number of the line. With `mix`, it has to be that of `mix`.

    Raises:
        ReplayError: the file cannot be read, lacks a column, has no call or one that is not accepted, or was recorded
            with another mix.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or ())
            calls = [_to_arrival(f"{path}: line {reader.line_num}", reader.line_num, row, mix) for row in reader]
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read ({error.strerror}); give a calls.csv with --replay") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ReplayError(f"{path}: not CSV in UTF-8 ({error})") from None
    if not calls:
        raise ReplayError(f"{path}: there are no calls in it; accepted: one line or more below the header")
    return sorted(calls, key=lambda call: call.at_s)


def _check_columns(path: Path, columns: Collection[str]) -> None:
    for column in ("endpoint", "scheduled_s"):
        if column not in columns:
            found = ", ".join(columns) or "none"
            raise ReplayError(f"{path}: column {column}: missing; found: {found}; see calls.csv of any load test")


def _to_arrival(where: str, line: int, row: Mapping[str, str | None], mix: Mix) -> Arrival:
    _check_mix(where, row.get("mix") or "", mix)
    name = row["endpoint"] or ""
    if name not in mix.endpoints:
        raise ReplayError(f"{where}: endpoint: {name!r} is not accepted; accepted: {', '.join(mix.endpoints)}")
    seconds = _to_seconds(where, row["scheduled_s"] or "")
    return Arrival(seconds, name, _to_seed(where, row["seed"] or "") if "seed" in row else line)


def _check_mix(where: str, recorded: str, mix: Mix) -> None:
    if not recorded or recorded == mix.name:
        return
    advice = (
        "leave --mix out" if recorded == "default" else "give the file it was recorded with as --mix, and its pictures"
    )
    raise ReplayError(f"{where}: mix: {recorded!r} was recorded, and this mix is {mix.name!r}; {advice}")


def _to_seconds(where: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LATEST_S:
        accepted = f"accepted: seconds from the load's beginning, 0 to {LATEST_S:.0f}"
        raise ReplayError(f"{where}: scheduled_s: {text!r} is not accepted; {accepted}")
    return seconds


def _to_seed(where: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ReplayError(f"{where}: seed: {text!r} is not accepted; accepted: a whole number from 0")
    return int(text)
