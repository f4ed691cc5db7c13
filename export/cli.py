"""Command `reverie export`: publish the newest finished runs, and let a running server pick them up."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Kind(str, Enum):
    """What can be exported; the values are the kinds of runs."""

    language_model = "language_model"
    style = "style"


def export_command(
    model: Annotated[
        Kind | None, typer.Option(help="Only this model. Default: every model that has a finished run.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="This run of --model instead of the newest finished one.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are.")] = Path("runs"),
    repository: Annotated[Path, typer.Option(help="Model repository to publish into.")] = Path("model_repository"),
    address: Annotated[
        str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of a running server to update.")
    ] = "127.0.0.1:8001",
) -> None:
    """Export trained models to ONNX, check them against Keras, and publish the next version."""
    if run is not None and model is None:
        raise typer.BadParameter("name the run's --model", param_hint="--run")
    from export import publishing

    for published in publishing.export_runs(model.value if model else None, run, runs, repository):
        parity = published.exported.parity
        typer.echo(
            f"{published.exported.model} version {published.version}: published; largest difference to Keras "
            f"{parity.largest:.3g} {parity.unit}, mean {parity.mean:.3g}"
        )
        served = publishing.update_server(published, repository, address)
        typer.echo(
            f"  {address} now serves it" if served else f"  no server at {address}; it is served from the next start"
        )
