"""Commands `reverie export`, `models`, `rollback`, `canary`, `push`, `pull`, `configs`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from export.onnx.precision import CPU_DEFAULT, Precision
from registry.quality_metric import Measure
from reverie import outputs


class Kind(str, Enum):
    """What can be exported; the values are the kinds of runs."""

    language_model = "language_model"
    style = "style"


Address = Annotated[str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of a running server to update.")]
Repository = Annotated[Path, typer.Option(help="The model repository.")]
Name = Annotated[Kind, typer.Argument(help="An exported model.", metavar="MODEL")]
Version = Annotated[int, typer.Argument(help="One of its versions.")]

BucketUrl = Annotated[str, typer.Argument(help="s3://BUCKET or s3://BUCKET/PREFIX.", metavar="URL")]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", envvar="AWS_ENDPOINT_URL_S3", help="Of a storage that is not Amazon's."),
]

LOCAL = "127.0.0.1:8001"
MODELS = Path("model_repository")
_NOBODY = "no server listens at {}: only the files were changed"

models_app = typer.Typer(help="The exported models' versions: list, verify, label.")


def add_commands(cli: typer.Typer) -> None:
    """Register every command of this file."""
    cli.command("export")(export_command)
    cli.add_typer(models_app, name="models", invoke_without_command=True)
    for command in (rollback, canary, push, pull, configs):
        cli.command()(command)


def export_command(
    context: typer.Context,
    model: Annotated[
        Kind | None, typer.Option(help="Only this model. Default: every model that has a finished run.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="This run of --model instead of the newest finished one.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are.")] = Path("runs"),
    repository: Annotated[Path, typer.Option(help="Model repository to publish into.")] = MODELS,
    precision: Annotated[
        Precision,
        typer.Option(help="What a style network computes in on a CPU. A language model is exported in all precisions."),
    ] = CPU_DEFAULT,
    label: Annotated[str, typer.Option(help="The new version's label; only `stable` is what callers get.")] = "stable",
    address: Address = LOCAL,
    to: Annotated[str | None, typer.Option("--push", help="Also push the repository to this bucket: s3://...")] = None,
    endpoint: Endpoint = None,
) -> None:
    """Export trained models to ONNX, check them against Keras, and publish the next version."""
    if run is not None and model is None:
        raise typer.BadParameter("name the run's --model", param_hint="--run")

    from export.publishing import export_runs

    kind = model.value if model else None
    is_required = _is_named(context)
    for published in export_runs(kind, run, runs, repository, address, label, precision, is_required, _warn):
        parity = published.exported.parity
        typer.echo(
            f"{published.exported.model} version {published.version}: published as {label}; largest difference to Keras "
            f"{parity.largest:.3g} {parity.unit}, mean {parity.mean:.3g}"
        )
        if published.served:
            typer.echo(f"  {address} now serves it")
        else:
            typer.echo(f"warning: {_NOBODY.format(address)}; it is served from the next start", err=True)
        for version in published.pruned:
            typer.echo(f"  version {version}, which no label names, was removed")
    if to:
        push(to, repository, endpoint)


@models_app.callback()
def models(context: typer.Context, repository: Repository = MODELS, address: Address = LOCAL) -> None:
    """List every version: labels, state, where it came from and what it was measured at."""
    if context.invoked_subcommand is None:
        from registry import table

        Console().print(table.table(repository, address))


@models_app.command()
def verify(repository: Repository = MODELS) -> None:
    """Compare every version's files with its manifest; exit status 1 if one was altered."""
    from registry import table

    faults = 0
    for name, version, fault in table.verify(repository):
        typer.echo(f"{name} version {version}: {fault or 'whole'}", err=bool(fault))
        faults += bool(fault)
    sys.exit(1 if faults else 0)


@models_app.command()
def adopt(model: Name, version: Version, repository: Repository = MODELS) -> None:
    """Write a manifest for a version that has none, with its files as they are now."""
    from registry import table

    table.adopt(repository / model.value / str(version), model.value)
    typer.echo(f"{model.value} version {version}: signed as it is")


@models_app.command()
def restore(
    version: Version,
    model: Annotated[Kind, typer.Option(help="Whose version.")] = Kind.language_model,
    run: Annotated[Path | None, typer.Option(help="Folder of the run. Default: a new one under runs/.")] = None,
    repository: Repository = MODELS,
) -> None:
    """Make a run of a published version, for `--from` of `reverie train lm`, `style` and `add-style`."""
    typer.echo(f"restoring {model.value} version {version}", err=True)  # TensorFlow, imported next, takes seconds.
    from export.language_model.restore import restore as restore_language_model
    from export.style.restore import restore as restore_style

    restore_run = restore_style if model is Kind.style else restore_language_model
    restored = restore_run(repository / model.value / str(version), run)
    further = "add-style --style painting.jpg" if model is Kind.style else "lm --preset reviews"
    typer.echo(f"{restored.path}: version {version}; go on with 'reverie train {further} --from {restored.path}'")


@models_app.command()
def promote(
    context: typer.Context,
    model: Name,
    version: Version,
    to: Annotated[str, typer.Option(help="The label: stable, or a name of your own.")] = "stable",
    repository: Repository = MODELS,
    address: Address = LOCAL,
) -> None:
    """Let a label name a version; `stable` is what callers get who ask for none."""
    from registry import publishing

    _with_model(context, model.value, repository, address, lambda m: publishing.promote(m, version, to, _warn))
    typer.echo(f"{model.value} version {version} is now {to}")


@models_app.command()
def history(repository: Repository = MODELS) -> None:
    """What was published, promoted and rolled back, oldest first."""
    from registry.repository import Repository as Files

    for event in Files(repository).history():
        was = f", was {event['was']}" if event.get("was") else ""
        what = f"{event['event']}: {event['model']}"
        if "version" in event:
            typer.echo(f"{event['time']}  {what} version {event['version']} as {event['label']}{was}")
        else:
            done = "promoted" if event["promoted"] else "rolled back"
            typer.echo(
                f"{event['time']}  {what} version {event['canary']['version']} {done}: {'; '.join(event['reasons'])}"
            )


def rollback(context: typer.Context, model: Name, repository: Repository = MODELS, address: Address = LOCAL) -> None:
    """Make the version stable that was stable before."""
    from registry import publishing

    version = _with_model(context, model.value, repository, address, lambda m: publishing.rollback(m, _warn))
    typer.echo(f"{model.value} version {version} is stable again")


def canary(
    context: typer.Context,
    model: Name,
    version: Version,
    percent: Annotated[float, typer.Option(help="Share of the traffic that it gets.")] = 10.0,
    duration: Annotated[str, typer.Option("--for", help="How long: 90s, 5m, 1h.")] = "5m",
    metrics: Annotated[str, typer.Option(help="URL of the server's metrics.")] = "http://127.0.0.1:8002/metrics",
    measure: Annotated[
        Measure,
        typer.Option(
            help="Compare quality on the stable version's recorded rows, on the canary's own (a language model that was "
            "trained on other texts), or not at all."
        ),
    ] = Measure.stable,
    textfile: Annotated[
        Path | None,
        typer.Option(help="Also write the verdict in Prometheus' text format (for its textfile collector)."),
    ] = None,
    repository: Repository = MODELS,
    address: Address = LOCAL,
) -> None:
    """Send a share of the traffic to a version, compare it with the stable one, and promote it or not.

    Exit status 3 when it was not promoted.
    """
    from registry import canary as trial

    seconds = _seconds(duration)
    if textfile:
        outputs.check(textfile)
    verdict = _with_model(
        context,
        model.value,
        repository,
        address,
        lambda m: trial.run(m, version, percent, seconds, metrics, on_sample=_Watching(seconds).tell, measure=measure),
    )
    for label, seen in (("stable", verdict.stable), ("canary", verdict.canary)):
        p95 = "unknown" if seen.p95_ms is None else f"{seen.p95_ms:.1f} ms"
        quality = "" if seen.measure is None else f", measure {seen.measure:.4g}"
        typer.echo(
            f"{label} {seen.version}: {seen.requests} requests, {seen.error_rate:.2%} failed, p95 {p95}{quality}"
        )
    for sentence in verdict.compared:
        typer.echo(f"  compared {sentence}")
    done = "promoted to stable" if verdict.promoted else "not promoted; the stable version gets all traffic again"
    typer.echo(f"{model.value} version {version}: {done}: {'; '.join(verdict.reasons)}")
    if textfile:
        trial.write_textfile(verdict, textfile)
    sys.exit(0 if verdict.promoted else 3)


class _Watching:
    """Tells how a canary goes, each time that somebody looks."""

    def __init__(self, seconds: float):
        self._seconds, self._began = seconds, time.monotonic()

    def tell(self, stable: Any, canary: Any) -> None:
        """A line on stderr; both are `registry.canary.Observed`."""
        sides = (f"{o.requests} calls of version {o.version}, {o.failures} failed" for o in (canary, stable))
        typer.echo(f"{time.monotonic() - self._began:.0f} s of {self._seconds:g}: {'; '.join(sides)}", err=True)


def push(url: BucketUrl, repository: Repository = MODELS, endpoint: Endpoint = None) -> None:
    """Bring a bucket to what this repository's labels say."""
    from registry import bucket
    from registry.repository import Repository as Files

    _report_moves(bucket.push(Files(repository), bucket.Bucket.at(url, endpoint)), "pushed")


def pull(
    url: BucketUrl,
    repository: Repository = MODELS,
    endpoint: Endpoint = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds between looks at the bucket; default: once.", min=1)
    ] = None,
    address: Address = LOCAL,
) -> None:
    """Bring this repository, and the server that serves it, to what a bucket says."""
    from registry import bucket
    from registry.repository import Repository as Files

    source = bucket.Bucket.at(url, endpoint)
    if every is None:
        return _report_moves(bucket.pull(Files(repository), source, address), "pulled")
    while True:
        try:
            _report_moves(bucket.pull(Files(repository), source, address), "pulled", is_quiet=True)
        except _errors_of_a_pull() as error:  # What is served goes on; the next look may find it mended.
            typer.echo(f"error: {error}", err=True)
        time.sleep(every)


def _report_moves(moves: Iterable, done: str, is_quiet: bool = False) -> None:
    moved = None
    for moved in moves:
        named = ", ".join(f"{v} {label}" for label, v in sorted(moved.labels.versions.items())) if moved.labels else ""
        new = f"; new: {', '.join(map(str, moved.versions))}" if moved.versions else ""
        removed = f"; removed: {', '.join(map(str, moved.removed))}" if moved.removed else ""
        typer.echo(f"{moved.model}: {done}{f' ({named})' if named else ''}{new}{removed}")
    if moved is None and not is_quiet:
        typer.echo("nothing to do: both sides are the same")


def configs(
    repository: Repository = MODELS,
    check: Annotated[bool, typer.Option(help="Write nothing; exit status 1 if a file is not as it would be.")] = False,
) -> None:
    """Write every config.pbtxt of the repository from its description in registry/configuration.py."""
    from registry import table

    changed = table.write_configurations(repository, check)
    for path in changed:
        typer.echo(f"{path}: {'differs' if check else 'written'}")
    sys.exit(1 if check and changed else 0)


def _is_named(context: typer.Context) -> bool:
    """Whether somebody named the server's address, who then expects one there."""
    source = context.get_parameter_source("address")
    return source is not None and source.name != "DEFAULT"


def _warn(sentence: str) -> None:
    """Said before it happens; stdout is for what was done."""
    typer.echo(f"warning: {sentence}", err=True)


def _with_model(context: typer.Context, name: str, repository: Path, address: str, act: Callable):
    from registry import publishing
    from registry.repository import Repository as Files
    from registry.rollout import Rollout

    with ExitStack() as stack:
        client = stack.enter_context(publishing.connected(address, _is_named(context)))
        if client is None:
            typer.echo(f"warning: {_NOBODY.format(address)}", err=True)
        return act(Rollout(name, Files(repository), client))


def _errors_of_a_pull() -> tuple[type[Exception], ...]:
    from reverie_client import ReverieError

    from registry.bucket import BucketError
    from registry.manifest import ManifestError
    from registry.repository import RepositoryError
    from registry.rollout import SwitchError

    return BucketError, ManifestError, RepositoryError, SwitchError, ReverieError, OSError


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise typer.BadParameter(f"{text!r}; accepted: a number and s, m or h, as in 5m", param_hint="--for")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
