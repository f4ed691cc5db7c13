"""Commands that need no server: `reverie inspect` and `reverie weights`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imaging.provenance import Provenance
from imaging.provenance import read as read_provenance


def inspect(
    file: Annotated[Path, typer.Argument(help="A picture (PNG, JPEG, WebP, GIF) or a video (MP4, MOV, MKV).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, or null.")] = False,
) -> None:
    """Say how a picture or a video was made, as it says itself; exit status 1 if it says nothing."""
    found = read_provenance(file)
    if as_json:
        typer.echo(json.dumps(asdict(found) if found else None))
    else:
        typer.echo(_said(found) if found else f"{file} does not say how it was made")
    sys.exit(0 if found else 1)


def weights(name: Annotated[str, typer.Argument(help="vgg19 or inception_v3.")]) -> None:
    """Download ImageNet weights into the Keras cache, once."""
    from synthesis import features

    typer.echo(f"{name}: {features.weights_path(name) or features.download(name)}")


def _said(found: Provenance) -> str:
    """A line for each thing that is said; control characters of strange files do not reach the terminal."""
    lines = []
    for name, value in asdict(found).items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        printable = "".join(c if c.isprintable() else "\ufffd" for c in text)
        lines += [f"{name.replace('_', ' ')}: {printable}"] if value else []
    return "\n".join(lines)
