"""Commands `reverie keys ...`: who may call a server. A key is printed once, on the standard output, and kept nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.door.keys import Caller, KeyFile

KEYS_VARIABLE = "REVERIE_KEYS"

keys_app = typer.Typer(help="Keys of those who may call a server; it takes up each change at once.")

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar=KEYS_VARIABLE,
        help="The key file. Default: reverie/keys.json in $XDG_CONFIG_HOME or ~/.config.",
    ),
]
NameArgument = Annotated[str, typer.Argument(help="Who calls; limits, metrics and logs know the key by this name.")]


@keys_app.command()
def add(
    name: NameArgument,
    quota: Annotated[
        str | None, typer.Option(help="Calls in a time: 20/s, 20/min, 1000/h, 1000/day. Default: any number.")
    ] = None,
    streams: Annotated[int, typer.Option(help="Calls at the same time; 0 for any number.")] = 0,
    models: Annotated[
        str | None, typer.Option(help="Models that may be called, separated by commas. Default: all.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May load and unload models, which runs their code.")] = False,
    body_mib: Annotated[int, typer.Option(help="Largest request in MiB; 0 for what the server takes.")] = 0,
    file: FileOption = None,
) -> None:
    """Make a key and print it."""
    from serving.door.keys import Quota

    limits: dict[str, Any] = {"streams": streams, "admin": admin, "body_mib": body_mib}
    if quota is not None:  # An empty one may be a variable that is not set, and must not mean "any number".
        limits["quota"] = str(Quota.parse(quota))
    if models is not None:
        limits["models"] = tuple(part.strip() for part in models.split(","))
    key_file = _key_file(file, make_folder=True)
    key = key_file.add(name, **limits)
    _hand_over(key, name, key_file)


@keys_app.command("list")
def list_keys(file: FileOption = None) -> None:
    """List who has a key, and what it opens."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "quota", "streams", "models", "body", "admin", "made")
    for name, caller in _key_file(file).callers().items():
        table.add_row(name, *_cells(caller))
    Console().print(table)


@keys_app.command()
def revoke(name: NameArgument, file: FileOption = None) -> None:
    """Let nobody in with a key any more; calls that are being answered are not cut off."""
    key_file = _key_file(file)
    key_file.revoke(name)
    typer.echo(f"{name} has no key any more in {key_file.path}")


@keys_app.command()
def rotate(name: NameArgument, file: FileOption = None) -> None:
    """Replace a key by a new one with the same limits, and print it; the old one opens nothing any more."""
    key_file = _key_file(file)
    _hand_over(key_file.rotate(name), name, key_file)


def default_path() -> Path:
    """Where the key file is when nobody says: a user's own configuration."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (folder if folder.is_absolute() else Path.home() / ".config") / "reverie" / "keys.json"


def _key_file(path: Path | None, make_folder: bool = False) -> KeyFile:
    from serving.door.keys import KeyFile

    if path is None:
        path = default_path()
        if make_folder:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return KeyFile(path)


def _hand_over(key: str, name: str, file: KeyFile) -> None:
    """The key alone on the standard output, so that it can be piped to where it belongs."""
    typer.echo(key)
    typer.echo(
        f"This is the key of {name}; it is shown once. {file.path} holds its SHA-256 only. Callers set REVERIE_API_KEY, or "
        "send it as 'Authorization: Bearer KEY'.",
        err=True,
    )


def _cells(caller: Caller) -> Iterator[str]:
    yield caller.quota or "any"
    yield str(caller.streams or "any")
    yield ", ".join(caller.models) or "all"
    yield f"{caller.body_mib} MiB" if caller.body_mib else "any"
    yield "yes" if caller.admin else "no"
    yield caller.created
