"""Commands `reverie styles ...`: the library of named styles in a model repository.

They change files; a server that serves the repository knows at once. What takes time to import is imported inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from reverie import outputs
from reverie.errors import InputError

if TYPE_CHECKING:
    from serving.style.library import StyleLibrary
    from serving.style.style_file import StyleFile

Repository = Annotated[Path, typer.Option("--repository", help="The model repository.")]
Owner = Annotated[
    str,
    typer.Option("--owner", help="The client whose style it is, as the server knows it. Default: everybody's."),
]
Name = Annotated[str, typer.Argument(help="A style.")]

MODELS = Path("model_repository")

styles_app = typer.Typer(help="Named styles beside those of the network: list, bring, take away.", no_args_is_help=True)


@styles_app.command("list")
def list_styles(repository: Repository = MODELS) -> None:
    """List every style: whose it is, the network that it was made for, its painting."""
    from serving.style.library import StyleLibrary

    library = StyleLibrary(repository)
    found = Table()
    for column in ("style", "owner", "network", "painting", "made"):
        found.add_column(column, overflow="fold")
    if trained := next(library.tables(), None):
        for name in trained.names:
            found.add_row(name, "the network", trained.network or "takes its own styles only", "", "")
    for shelf in library.shelves():
        for name in shelf.names():
            style = library.get(name, shelf.owner)
            found.add_row(name, shelf.owner or "everybody", style.network, style.painting, style.made)
    Console().print(found)


@styles_app.command()
def show(
    name: Name,
    owner: Owner = "",
    thumbnail: Annotated[Path | None, typer.Option(help="Also write its thumbnail, a JPEG, if it has one.")] = None,
    repository: Repository = MODELS,
) -> None:
    """Say what is known of a style."""
    style = _found(repository, name, owner)
    typer.echo(f"{style.name}: {len(style.vector)} numbers for the network {style.network}")
    for label, value in (("painting", style.painting), ("its SHA-256", style.painting_sha256), ("made", style.made)):
        if value:
            typer.echo(f"  {label}: {value}")
    for measure, number in style.measures.items():
        typer.echo(f"  {measure}: {number:.4g}")
    if thumbnail:
        if not style.thumbnail:
            raise InputError(f"style {name!r} has no thumbnail; leave --thumbnail out")
        outputs.write(thumbnail, style.thumbnail)
        typer.echo(f"wrote {thumbnail}")


@styles_app.command()
def rename(
    name: Name,
    new: Annotated[str, typer.Argument(help="What it is to be called.")],
    owner: Owner = "",
    repository: Repository = MODELS,
) -> None:
    """Give a style of the library another name."""
    _library(repository).rename(name, new, owner)
    typer.echo(f"{name} is now {new}")


@styles_app.command()
def remove(name: Name, owner: Owner = "", repository: Repository = MODELS) -> None:
    """Remove a style from the library."""
    _library(repository).remove(name, owner)
    typer.echo(f"{name} is gone")


@styles_app.command("export")
def export_style(
    name: Name,
    file: Annotated[Path, typer.Argument(help="File to write: JSON.")],
    owner: Owner = "",
    repository: Repository = MODELS,
) -> None:
    """Write a style of the library or of the network as one small file."""
    outputs.check(file)
    outputs.write(file, _found(repository, name, owner).to_bytes())
    typer.echo(f"wrote {file}")


@styles_app.command("import")
def import_style(
    file: Annotated[Path, typer.Argument(help="What `export` has written.")],
    name: Annotated[str, typer.Option(help="What it is to be called here. Default: as it was.")] = "",
    owner: Owner = "",
    repository: Repository = MODELS,
) -> None:
    """Bring a style into the library; running servers know it at once."""
    from serving.style.style_file import checked_name

    style = read_style(file)
    if name:
        style = style.model_copy(update={"name": checked_name(name)})
    _library(repository).add(style, owner)
    typer.echo(f"{style.name} is there for {owner or 'everybody'}")


def read_style(file: Path) -> StyleFile:
    """A style that `export` has written.

    Raises:
        StyleFileError: it is none.
    """
    from serving.style.style_file import LARGEST, StyleFile

    with file.open("rb") as opened:
        return StyleFile.of_bytes(opened.read(LARGEST + 1), str(file))


def _library(repository: Path) -> StyleLibrary:
    from serving.style.library import StyleLibrary

    return StyleLibrary(repository)


def _found(repository: Path, name: str, owner: str) -> StyleFile:
    """A style of the library, else of the newest version."""
    from serving.style.style_file import StyleFile

    library = _library(repository)
    trained = next(library.tables(), None)
    if library.find(name, owner) is None and trained and trained.takes_vectors and name in trained.names:
        digest = trained.paintings[trained.names.index(name)]
        return StyleFile.of(name, trained.network, trained.row(name), painting_sha256=digest)
    return library.get(name, owner)
