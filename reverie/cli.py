"""Entry point of the command line; see each folder's `cli.py` for its commands.

It lives outside the folders because serving must not import training.
"""

from __future__ import annotations

import os
import sys

import typer

from export.cli import add_commands as add_export_commands
from reverie.served import eval_served
from reverie.style_evaluation import eval_style
from serving.cli import add_commands as add_serving_commands
from synthesis import gpu
from training.cli import eval_app, train_app

_OURS = {"training", "export", "serving", "synthesis", "language", "reverie"}

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, export and serve generative models.")
eval_app.command("served")(eval_served)
eval_app.command("style")(eval_style)
cli.add_typer(train_app, name="train")
cli.add_typer(eval_app, name="eval")
add_export_commands(cli)
add_serving_commands(cli)


def app() -> None:
    """Run the command line; our own exceptions are written for people and need no traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", gpu.log_level())  # Before anything imports TensorFlow.
    try:
        cli()
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _OURS:
            raise
        status = getattr(error, "exit_status", 1)
        typer.echo(f"error: {error}" if status == 1 else str(error), err=True)
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app()
