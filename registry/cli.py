"""Commands `reverie models ...` and `reverie configs`: what is published, and which version is served.

What takes time to import is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from registry.quality_metric import QualityMetric
from reverie import outputs

if TYPE_CHECKING:
    from registry.bucket import SyncResult
    from registry.canary import Verdict
    from registry.canary_metrics import CanaryMetrics
    from registry.rollout import Rollout

T = TypeVar("T")


class ModelName(str, Enum):
    """The models that come in versions; `registry.configuration.EXPORTED` describes them."""

    language_model = "language_model"
    style = "style"


AddressOption = Annotated[
    str, typer.Option("--address", envvar="REVERIE_ADDRESS", help="gRPC address of a running server to update.")
]
RepositoryOption = Annotated[Path, typer.Option("--repository", help="The model repository.")]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint-url", envvar="AWS_ENDPOINT_URL_S3", help="Of a storage that is not Amazon's."),
]
ModelArgument = Annotated[ModelName, typer.Argument(help="An exported model.", metavar="MODEL")]
AnyModelArgument = Annotated[
    ModelName | None, typer.Argument(help="An exported model. Default: all of them.", metavar="[MODEL]")
]
VersionArgument = Annotated[int, typer.Argument(help="One of its versions.")]
BucketArgument = Annotated[str, typer.Argument(help="s3://BUCKET or s3://BUCKET/PREFIX.", metavar="URL")]

LOCAL = "127.0.0.1:8001"
MODELS = Path("model_repository")
NO_SERVER = "no server listens at {}: only the files were changed"

models_app = typer.Typer(help="The exported models' versions: list, verify, label, bring elsewhere.")


def add_commands(cli: typer.Typer) -> None:
    """Register every command of this file; some also under the shorter names that they had before."""
    cli.add_typer(models_app, name="models", invoke_without_command=True)
    cli.command()(configs)
    for command in (rollback, canary, push, pull):
        cli.command(hidden=True)(command)


@models_app.callback()
def models(context: typer.Context, repository: RepositoryOption = MODELS, address: AddressOption = LOCAL) -> None:
    """The exported models' versions; without a command, their list."""
    if context.invoked_subcommand is None:
        list_versions(None, repository, address)


@models_app.command("list")
def list_versions(
    model: AnyModelArgument = None, repository: RepositoryOption = MODELS, address: AddressOption = LOCAL
) -> None:
    """List every version: labels, state, where it came from and what it was measured at."""
    from registry import table

    Console().print(table.table(repository, address, _name(model)))


@models_app.command()
def verify(
    model: AnyModelArgument = None,
    version: Annotated[int | None, typer.Argument(help="One of its versions. Default: all of them.")] = None,
    repository: RepositoryOption = MODELS,
) -> None:
    """Compare versions' files with their manifests; exit status 1 if one was altered."""
    from registry import table

    faults = 0
    for name, number, fault in table.verify(repository, _name(model), version):
        typer.echo(f"{name} version {number}: {fault or 'whole'}", err=bool(fault))
        faults += bool(fault)
    sys.exit(1 if faults else 0)


@models_app.command()
def adopt(model: ModelArgument, version: VersionArgument, repository: RepositoryOption = MODELS) -> None:
    """Write a manifest for a version that has none, with its files as they are now."""
    from registry import table

    table.adopt(repository / model.value / str(version), model.value)
    typer.echo(f"{model.value} version {version}: its manifest has the checksums of its files as they are")


@models_app.command()
def promote(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    to: Annotated[str, typer.Option(help="The label: stable, or a name of your own.")] = "stable",
    repository: RepositoryOption = MODELS,
    address: AddressOption = LOCAL,
) -> None:
    """Let a label name a version; `stable` is what callers get who ask for none."""
    from registry import publishing

    _with_model(context, model, repository, address, lambda m: publishing.promote(m, version, to, warn))
    typer.echo(f"{model.value} version {version} is now {to}")


@models_app.command()
def rollback(
    context: typer.Context,
    model: ModelArgument,
    repository: RepositoryOption = MODELS,
    address: AddressOption = LOCAL,
) -> None:
    """Make the version stable that was stable before."""
    from registry import publishing

    version = _with_model(context, model, repository, address, lambda m: publishing.rollback(m, warn))
    typer.echo(f"{model.value} version {version} is stable again")


@models_app.command()
def history(model: AnyModelArgument = None, repository: RepositoryOption = MODELS) -> None:
    """Tell what was published, promoted and rolled back, oldest first."""
    from registry.history import History

    for event in History(repository).events(_name(model)):
        was = f", was {event['was']}" if event.get("was") else ""
        what = f"{event['event']}: {event['model']}"
        if "version" in event:
            typer.echo(f"{event['time']}  {what} version {event['version']} as {event['label']}{was}")
        else:
            done = "promoted" if event["promoted"] else "rolled back"
            typer.echo(
                f"{event['time']}  {what} version {event['canary']['version']} {done}: {'; '.join(event['reasons'])}"
            )


@models_app.command()
def canary(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    percent: Annotated[float, typer.Option(help="Share of the traffic that it gets.")] = 10.0,
    duration: Annotated[str, typer.Option("--for", help="How long: 90s, 5m, 1h.")] = "5m",
    metrics: Annotated[str, typer.Option(help="URL of the server's metrics.")] = "http://127.0.0.1:8002/metrics",
    quality: Annotated[
        QualityMetric,
        typer.Option(
            help="Compare quality on the stable version's recorded rows, on the canary's own (a language model that was "
            "trained on other texts), or not at all."
        ),
    ] = QualityMetric.stable,
    measure: Annotated[QualityMetric | None, typer.Option(hidden=True, help="The former name of --quality.")] = None,
    textfile: Annotated[
        Path | None,
        typer.Option(help="Also write the verdict in Prometheus' text format (for its textfile collector)."),
    ] = None,
    repository: RepositoryOption = MODELS,
    address: AddressOption = LOCAL,
) -> None:
    """Send a share of the traffic to a version, compare it with the stable one, and promote it or not.

    Exit status 3 when it was not promoted.
    """
    from registry.canary import run, write_textfile

    seconds = _seconds(duration)
    if textfile:
        outputs.check(textfile)

    def watched(rollout: Rollout) -> Verdict:
        tell = _Watching(seconds).tell
        return run(rollout, version, percent, seconds, metrics, on_sample=tell, quality_metric=measure or quality)

    verdict = _with_model(context, model, repository, address, watched)
    _tell_verdict(verdict)
    if textfile:
        write_textfile(verdict, textfile)
    sys.exit(0 if verdict.promoted else 3)


def _tell_verdict(verdict: Verdict) -> None:
    for label, seen in (("stable", verdict.stable), ("canary", verdict.canary)):
        p95 = "unknown" if seen.p95_ms is None else f"{seen.p95_ms:.1f} ms"
        quality = "" if seen.quality is None else f", measure {seen.quality:.4g}"
        typer.echo(
            f"{label} {seen.version}: {seen.requests} requests, {seen.error_rate:.2%} failed, p95 {p95}{quality}"
        )
    for sentence in verdict.compared:
        typer.echo(f"  compared {sentence}")
    done = "promoted to stable" if verdict.promoted else "not promoted; the stable version gets all traffic again"
    typer.echo(f"{verdict.model} version {verdict.canary.version}: {done}: {'; '.join(verdict.reasons)}")


class _Watching:
    """Tells how a canary goes, each time that somebody looks."""

    def __init__(self, seconds: float):
        self._seconds, self._began = seconds, time.monotonic()

    def tell(self, stable: CanaryMetrics, canary: CanaryMetrics) -> None:
        """A line on stderr."""
        sides = (f"{o.requests} calls of version {o.version}, {o.failures} failed" for o in (canary, stable))
        typer.echo(f"{time.monotonic() - self._began:.0f} s of {self._seconds:g}: {'; '.join(sides)}", err=True)


@models_app.command()
def push(url: BucketArgument, repository: RepositoryOption = MODELS, endpoint: EndpointOption = None) -> None:
    """Bring a bucket to what this repository's labels say."""
    from registry import bucket
    from registry.repository import Repository

    _report(bucket.push(Repository(repository), bucket.Bucket.at(url, endpoint)), "pushed")


@models_app.command()
def pull(
    url: BucketArgument,
    repository: RepositoryOption = MODELS,
    endpoint: EndpointOption = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds between looks at the bucket; default: once.", min=1)
    ] = None,
    address: AddressOption = LOCAL,
) -> None:
    """Bring this repository, and the server that serves it, to what a bucket says."""
    from registry import bucket
    from registry.repository import Repository

    source = bucket.Bucket.at(url, endpoint)
    if every is None:
        return _report(bucket.pull(Repository(repository), source, address), "pulled")
    while True:
        try:
            _report(bucket.pull(Repository(repository), source, address), "pulled", is_quiet=True)
        except _errors_of_a_pull() as error:  # What is served goes on; the next look may find it mended.
            typer.echo(f"error: {error}", err=True)
        time.sleep(every)


def _report(results: Iterable[SyncResult], done: str, is_quiet: bool = False) -> None:
    result = None
    for result in results:
        named = (
            ", ".join(f"{v} {label}" for label, v in sorted(result.labels.versions.items())) if result.labels else ""
        )
        new = f"; new: {', '.join(map(str, result.versions))}" if result.versions else ""
        removed = f"; removed: {', '.join(map(str, result.removed))}" if result.removed else ""
        typer.echo(f"{result.model}: {done}{f' ({named})' if named else ''}{new}{removed}")
    if result is None and not is_quiet:
        typer.echo("nothing to do: both sides are the same")


def configs(
    repository: RepositoryOption = MODELS,
    check: Annotated[bool, typer.Option(help="Write nothing; exit status 1 if a file is not as it would be.")] = False,
) -> None:
    """Write every config.pbtxt of the repository from its description in registry/configuration.py."""
    from registry import table

    changed = table.write_configurations(repository, check)
    for path in changed:
        typer.echo(f"{path}: {'differs' if check else 'written'}")
    sys.exit(1 if check and changed else 0)


def is_address_named(context: typer.Context) -> bool:
    """Whether somebody named the server's address, who then expects one there."""
    source = context.get_parameter_source("address")
    return source is not None and source.name != "DEFAULT"


def warn(sentence: str) -> None:
    """Say it on stderr, before it happens; stdout is for what was done."""
    typer.echo(f"warning: {sentence}", err=True)


def _name(model: ModelName | None) -> str | None:
    return model.value if model else None


def _with_model(
    context: typer.Context, model: ModelName, repository: Path, address: str, act: Callable[[Rollout], T]
) -> T:
    from registry import publishing
    from registry.repository import Repository
    from registry.rollout import Rollout

    with ExitStack() as stack:
        client = stack.enter_context(publishing.connected(address, is_address_named(context)))
        if client is None:
            warn(NO_SERVER.format(address))
        return act(Rollout(model.value, Repository(repository), client))


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
