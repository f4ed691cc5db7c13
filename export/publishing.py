"""From finished runs to served versions: export, publish, and ask a running server to load the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from export import language_model, style
from export.repository import Repository
from export.version import Exported, publish
from serving.client import Client, ReverieError
from training.runs import Run, RunError

_EXPORTERS: dict[str, Callable[[Run, Path], Exported]] = {
    "language_model": language_model.export,
    "style": style.export,
}


class PublishError(Exception):
    """A published version did not load; it was withdrawn and the old one still serves."""


@dataclass(frozen=True)
class Published:
    """A version that is in the repository."""

    exported: Exported
    version: int


def export_runs(kind: str | None, run: Path | None, runs: Path, repository: Path) -> Iterator[Published]:
    """Export and publish one run, or the newest finished run of every kind.

    Raises:
        RunError: there is no finished run to export.
        ParityError: a graph departs from Keras; nothing of it was published.
    """
    chosen = {kind: Run(run)} if kind and run else _newest(kind, runs)
    for name, found in chosen.items():
        exported, version = publish(found, _EXPORTERS[name], Repository(repository))
        yield Published(exported, version)


def update_server(published: Published, repository: Path, address: str) -> bool:
    """Make the server at `address` load a version and the Python models that build on it.

    Returns:
        False where no server answers.

    Raises:
        PublishError: the server refused the version, which is withdrawn.
    """
    with Client(address) as client:
        if not client.ready():
            return False
        exported, files = published.exported, Repository(repository)
        try:
            client.load(exported.model)
            for dependent in exported.dependents:
                # Triton reloads only what is newer on disk.
                files.touch(dependent)
                client.load(dependent)
        except ReverieError as error:
            files.withdraw(exported.model, published.version)
            client.load(exported.model)
            raise PublishError(
                f"{exported.model} version {published.version} did not load and was withdrawn: {error.message}"
            ) from error
        return True


def _newest(kind: str | None, runs: Path) -> dict[str, Run]:
    found = {}
    for name in [kind] if kind else _EXPORTERS:
        try:
            found[name] = Run.newest_finished(name, runs)
        except RunError:
            continue
    if not found:
        raise RunError(
            f"no finished run of {kind or ' or '.join(_EXPORTERS)} under {runs}; train one with 'make train-lm' or 'make train-style'"
        )
    return found
