"""Entry point of the command line; see each folder's `cli.py` for its commands.

It lives outside the folders because serving must not import training. Where `training` and `export` are not installed, as
in the container that serves, their commands are not there either.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

import registry.cli
import serving.cli
from reverie import __version__, failures
from synthesis import gpu

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, export and serve generative models.")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"reverie {__version__}")
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train, export and serve generative models."""


def add_commands(cli: typer.Typer) -> None:
    """Register the commands of every room that is installed."""
    if _are_installed("training"):
        _add_training_commands(cli)
    if _are_installed("training", "export", "tf2onnx"):
        from export.cli import add_commands as add_export_commands

        add_export_commands(cli)
    registry.cli.add_commands(cli)
    serving.cli.add_commands(cli)


def _are_installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def _add_training_commands(cli: typer.Typer) -> None:
    from reverie.served import eval_served
    from reverie.style_evaluation import eval_style
    from training.cli import eval_app, train_app

    eval_app.command("served")(eval_served)
    eval_app.command("style")(eval_style)
    cli.add_typer(train_app, name="train")
    cli.add_typer(eval_app, name="eval")


add_commands(cli)


def app() -> None:
    """Run the command line; what is written for people, or is the machine's doing, needs no traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", gpu.log_level())  # Before anything imports TensorFlow.
    try:
        with failures.flushed():
            cli(prog_name="reverie")  # However it was started.
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # Whoever read the output has had enough.
        sys.exit(1)
    except Exception as error:
        sys.exit(failures.tell(error))


if __name__ == "__main__":
    app()
