"""Entry point of the command line; see each folder's `cli.py` for its commands.

It lives outside the folders because serving must not import training.
"""

from __future__ import annotations

import os
import sys

import typer

from export.cli import add_commands as add_export_commands
from reverie import failures
from reverie.served import eval_served
from reverie.style_evaluation import eval_style
from serving.cli import add_commands as add_serving_commands
from synthesis import gpu
from training.cli import eval_app, train_app

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, export and serve generative models.")
eval_app.command("served")(eval_served)
eval_app.command("style")(eval_style)
cli.add_typer(train_app, name="train")
cli.add_typer(eval_app, name="eval")
add_export_commands(cli)
add_serving_commands(cli)


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
