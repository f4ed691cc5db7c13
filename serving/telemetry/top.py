"""`reverie top`: what a server does now, as its metrics say it between two looks. Knows nothing of how they are made."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import psutil
import typer
from reverie_client import hosts, proxies
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reverie.errors import ToolkitError
from reverie.prometheus import Snapshot

_REQUESTS, _SECONDS, _FIRST, _IN_FLIGHT = (
    "reverie_requests",
    "reverie_request_seconds",
    "reverie_first_message_seconds",
    "reverie_in_flight",
)
_NO_FAULTS = ("OK", "CANCELLED", "INVALID_ARGUMENT")
"""Statuses that are no error of the server: an answer, and what its caller did."""
_SCRAPE_SECONDS = 5.0
_MIB = 2**20
_FILE_OF_VERSION = re.compile(r"/([^/]+)/(\d+)/model\.(?:py|onnx)$")


class MetricsUnread(ToolkitError):
    """Nobody answers where metrics should be, or with something else."""


@dataclass(frozen=True)
class ModelRow:
    """A version of a model between two looks.

    Attributes:
        rate: requests that ended, a second.
        errors: share of them, 0 to 1, that the server refused or failed; None where none ended.
        p50, p95: seconds of those that were answered; None where none was.
        first: median seconds to the first message.
        waiting, running: requests at the second look.
    """

    model: str
    version: str
    rate: float
    errors: float | None
    p50: float | None
    p95: float | None
    first: float | None
    waiting: int
    running: int


@dataclass(frozen=True)
class ProcessRow:
    """A process of the server.

    Attributes:
        name: what it is.
        mib: of memory that it alone has, or shares.
    """

    pid: int
    name: str
    mib: float


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes:
        seconds: between the two looks.
        processes: empty where the server is on another machine.
    """

    seconds: float
    models: list[ModelRow]
    processes: list[ProcessRow] = field(default_factory=list)

    def as_json(self) -> str:
        """Return it as JSON, with the names of its attributes."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def rows(before: Snapshot, after: Snapshot, seconds: float) -> list[ModelRow]:
    """Return a row for each version that has had a request, by name."""
    counted = (dict(labels) for name, labels in after.values if name == _REQUESTS)
    pairs = sorted({(labels["model"], labels["version"]) for labels in counted})
    added = after.since(before)
    return [_row(added, after, seconds, model, version) for model, version in pairs]


def _row(added: Snapshot, after: Snapshot, seconds: float, model: str, version: str) -> ModelRow:
    labels = {"model": model, "version": version}
    by_status = added.by("status", _REQUESTS, **labels)
    ended = sum(by_status.values())
    failed = sum(count for status, count in by_status.items() if status not in _NO_FAULTS)
    return ModelRow(
        model,
        version,
        rate=ended / seconds,
        errors=failed / ended if ended else None,
        p50=added.quantile(0.5, _SECONDS, **labels),
        p95=added.quantile(0.95, _SECONDS, **labels),
        first=added.quantile(0.5, _FIRST, **labels),
        waiting=int(after.total(_IN_FLIGHT, state="waiting", **labels)),
        running=int(after.total(_IN_FLIGHT, state="running", **labels)),
    )


def read(url: str) -> Snapshot:
    """Return a server's metrics.

    Raises:
        MetricsUnread: nobody answers, or not with metrics.
    """
    advice = (
        "accepted: the address of a server's metrics ('reverie serve' says it), as in http://127.0.0.1:8002/metrics"
    )
    try:
        with proxies.open_url(url, _SCRAPE_SECONDS) as reply:
            return Snapshot.read(reply.read().decode())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MetricsUnread(f"--metrics {url}: {error}; {advice}") from None


def processes(url: str) -> list[ProcessRow]:
    """Return those of the server whose metrics are at `url`; none where it is another machine's, or another user's."""
    server = _listener(url)
    if server is None:
        return []
    found = [row for process in _family(server) if (row := _process_row(process))]
    return sorted(found, key=lambda row: -row.mib)


def _listener(url: str) -> psutil.Process | None:
    """The process of this machine that listens where the metrics are."""
    parts = urlsplit(url)
    if hosts.local_name(parts.hostname or "") is None:
        return None
    try:
        port = parts.port or http.client.HTTP_PORT
        pids = [c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
        return next((psutil.Process(pid) for pid in pids if pid), None)
    except (psutil.Error, OSError, ValueError):
        return None


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _process_row(process: psutil.Process) -> ProcessRow | None:
    try:
        with process.oneshot():
            return ProcessRow(process.pid, _name(process.name(), process.cmdline()), process.memory_info().rss / _MIB)
    except psutil.Error:
        return None


def _name(name: str, arguments: list[str]) -> str:
    """What a process is, for people: a model's has the path of its version's file among its arguments."""
    for argument in arguments:
        if found := _FILE_OF_VERSION.search(argument):
            return f"{found[1]} {found[2]}"
    if "-m" in arguments[:-1]:
        return arguments[arguments.index("-m") + 1]
    return name


def looks(url: str, interval: float, wait: Callable[[float], None] = time.sleep) -> Iterator[View]:
    """Yield what has happened between two looks, again and again.

    Raises:
        MetricsUnread: nobody answers, or not with metrics.
    """
    before, began = read(url), time.monotonic()
    while True:
        wait(interval)
        after, now = read(url), time.monotonic()
        yield View(now - began, rows(before, after, now - began), processes(url))
        before, began = after, now


def render(view: View, url: str) -> RenderableType:
    """Return the view as tables."""
    title = Text(f"{url}, the last {view.seconds:.1f} s")
    return Group(title, _models_table(view), *([_processes_table(view)] if view.processes else []))


def _models_table(view: View) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True, min_width=14)
    for name in ("version", "per s", "errors", "p50 ms", "p95 ms", "first ms", "waiting", "running"):
        table.add_column(name, justify="right")
    for row in view.models:
        errors = "-" if row.errors is None else f"{row.errors:.1%}"
        times = [_milliseconds(value) for value in (row.p50, row.p95, row.first)]
        shown = Text(errors, "red" if row.errors else "")
        table.add_row(row.model, row.version, f"{row.rate:.1f}", shown, *times, str(row.waiting), str(row.running))
    return table


def _processes_table(view: View) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("process")
    table.add_column("pid", justify="right")
    table.add_column("MiB", justify="right")
    for row in view.processes:
        table.add_row(row.name, str(row.pid), f"{row.mib:.0f}")
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def top(
    metrics: Annotated[
        str, typer.Option(envvar="REVERIE_METRICS", help="Address of a server's metrics.")
    ] = "http://127.0.0.1:8002/metrics",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds from one look to the next.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print one table, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Show what a server does now: models, rates, errors, times, what waits and runs, and the memory of its processes."""
    if not (once or as_json):
        _follow(metrics, interval)
    view = next(looks(metrics, interval))
    if as_json:
        typer.echo(view.as_json())
    else:
        Console().print(render(view, metrics))


def _follow(url: str, interval: float) -> NoReturn:
    """Show each look in place of the one before; a server that ends is waited for."""
    read(url)  # An address at which nobody is, is a mistake.
    with Live(Text(f"looking at {url} ..."), auto_refresh=False) as live:
        while True:
            try:
                for view in looks(url, interval):
                    live.update(render(view, url), refresh=True)
            except MetricsUnread as problem:
                live.update(Text(str(problem), "red"), refresh=True)
                time.sleep(interval)
