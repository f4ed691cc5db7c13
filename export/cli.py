"""Commands `reverie export` and `reverie models restore`: from a training run to a published version, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.onnx.precision import CPU_DEFAULT, Precision
from registry.cli import (
    LOCAL,
    MODELS,
    NO_SERVER,
    AddressOption,
    EndpointOption,
    ModelArgument,
    ModelName,
    RepositoryOption,
    VersionArgument,
    is_address_named,
    models_app,
    push,
    warn,
)


def add_commands(cli: typer.Typer) -> None:
    """Register every command of this file; `restore` among those of `reverie models`."""
    cli.command("export")(export_command)
    models_app.command()(restore)


def export_command(
    context: typer.Context,
    model: Annotated[
        ModelName | None, typer.Option(help="Only this model. Default: every model that has a finished run.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="This run of --model instead of the newest finished one.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are.")] = Path("runs"),
    repository: Annotated[Path, typer.Option(help="Model repository to publish into.")] = MODELS,
    precision: Annotated[
        Precision,
        typer.Option(help="What a style network computes in on a CPU. A language model is exported in all precisions."),
    ] = CPU_DEFAULT,
    label: Annotated[str, typer.Option(help="The new version's label; only `stable` is what callers get.")] = "stable",
    address: AddressOption = LOCAL,
    to: Annotated[str | None, typer.Option("--push", help="Also push the repository to this bucket: s3://...")] = None,
    endpoint: EndpointOption = None,
) -> None:
    """Export trained models to ONNX, check them against Keras, and publish the next version."""
    if run is not None and model is None:
        raise typer.BadParameter("name the run's --model", param_hint="--run")

    from export.publishing import export_runs

    kind = model.value if model else None
    is_required = is_address_named(context)
    for published in export_runs(kind, run, runs, repository, address, label, precision, is_required, warn):
        parity = published.exported.parity
        typer.echo(
            f"{published.exported.model} version {published.version}: published as {label}; largest difference to Keras "
            f"{parity.largest:.3g} {parity.unit}, mean {parity.mean:.3g}"
        )
        if published.served:
            typer.echo(f"  {address} now serves it")
        else:
            warn(f"{NO_SERVER.format(address)}; it is served from the next start")
        for version in published.pruned:
            typer.echo(f"  version {version}, which no label names, was removed")
    if to:
        push(to, repository, endpoint)


def restore(
    model: ModelArgument,
    version: VersionArgument,
    run: Annotated[Path | None, typer.Option(help="Folder of the run. Default: a new one under runs/.")] = None,
    repository: RepositoryOption = MODELS,
) -> None:
    """Make a run of a published version, for `--from` of `reverie train lm`, `style` and `add-style`."""
    typer.echo(f"restoring {model.value} version {version}", err=True)  # TensorFlow, imported next, takes seconds.
    from export.language_model.restore import restore as restore_language_model
    from export.style.restore import restore as restore_style

    restore_run = restore_style if model is ModelName.style else restore_language_model
    restored = restore_run(repository / model.value / str(version), run)
    further = "add-style --style painting.jpg" if model is ModelName.style else "lm --preset reviews"
    typer.echo(f"{restored.path}: version {version}; go on with 'reverie train {further} --from {restored.path}'")
