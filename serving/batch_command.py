"""`reverie batch`, as the command line has it; the work is done by `serving.batch`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from reverie import outputs


def batch(
    source: Annotated[
        Path, typer.Argument(help="JSON lines, each with custom_id, method, url and body, as OpenAI has it.")
    ],
    output: Annotated[
        Path, typer.Argument(help="File for the answers; those that are there already are not asked for.")
    ],
    at_once: Annotated[int, typer.Option(min=1, max=64, help="Requests under way at the same time.")] = 8,
    repository: Annotated[
        Path, typer.Option(help="Model repository, for the tokenizer: usage, and prompts of token ids.")
    ] = Path("model_repository"),
    address: Annotated[
        str, typer.Option(envvar="REVERIE_ADDRESS", help="gRPC address of the server.")
    ] = "127.0.0.1:8001",
) -> None:
    """Answer a file of requests; run again after an interruption, it goes on where it was. Exit status 1 if one failed."""
    from serving.batch import read_requests, run_batch
    from serving.gateway.options import GatewayOptions

    if not source.is_file():
        raise typer.BadParameter(f"{source} is not a file", param_hint="SOURCE")
    try:
        outputs.check(output, [source])
    except outputs.OutputError as error:
        raise typer.BadParameter(str(error), param_hint="OUTPUT") from None
    requests = read_requests(source)
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(requests))
        result = asyncio.run(
            run_batch(
                requests,
                output,
                address,
                at_once,
                GatewayOptions(repository),
                on_answer=lambda done: progress.update(task, completed=done),
            )
        )
    typer.echo(
        f"wrote {output}: {result.answered} answered, {result.failed} of them failed, {result.skipped} were there"
    )
    sys.exit(1 if result.failed else 0)
