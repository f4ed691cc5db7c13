"""What is in a repository, for people: the table of versions, their verification, their configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reverie_client import Client
from rich.table import Table

from registry import configuration, golden, manifest
from registry.manifest import Manifest, ManifestError
from registry.model_configuration import Target
from registry.repository import Repository
from registry.rollout import Rollout

_COLUMNS = ("model", "version", "labels", "state", "from and measured")


def table(repository: Path, address: str | None, only: str | None = None) -> Table:
    """Every version of every exported model in `repository`, and every other model that a server at `address` has.

    Args:
        only: the one model to list.
    """
    found = Table()
    for i, name in enumerate(_COLUMNS):
        found.add_column(name, no_wrap=i < 4, overflow="fold")
    states = _states(address)
    for model, version in _versions(repository, only):
        found.add_row(model.name, str(version), *_row(model, version, states.pop((model.name, str(version)), "")))
    for (name, number), state in sorted(states.items()):
        if only in (None, name):
            found.add_row(name, number, "", state)
    return found


def verify(repository: Path, only: str | None = None, number: int | None = None) -> Iterator[tuple[str, int, str]]:
    """Model, version and what is wrong with it ("" if nothing), for every version.

    Args:
        only: the one model to look at.
        number: the one version of it.

    Raises:
        ManifestError: there is no such version.
    """
    chosen = [(model, version) for model, version in _versions(repository, only) if number in (None, version)]
    if number is not None and not chosen:
        raise ManifestError(f"{repository / str(only) / str(number)} is no version; `reverie models list` names them")
    for model, version in chosen:
        try:
            manifest.verify(model.repository.folder(model.name, version))
            yield model.name, version, ""
        except ManifestError as error:
            yield model.name, version, str(error)


def adopt(folder: Path, model: str) -> None:
    """Write a manifest, and a recorded answer, for a version that has none.

    Its origin is known as far as an older `export.json` tells, which the manifest replaces.

    Raises:
        ManifestError: there is no such version, or it has a manifest.
    """
    if not (folder / "model.onnx").exists() or (folder / manifest.FILE).exists():
        raise ManifestError(f"{folder} {'has a manifest' if (folder / manifest.FILE).exists() else 'is no version'}")
    old = folder / "export.json"
    known = json.loads(old.read_text()) if old.exists() else {}
    old.unlink(missing_ok=True)
    described = configuration.EXPORTED[model](**_FACTS[model](folder))
    if not (folder / golden.FILE).exists():
        golden.record(folder, described, {})
    measured = {k: v for k, v in known.items() if k not in ("run", "parity", "result")}
    run, parity, result = known.get("run", "unknown"), known.get("parity", {}), known.get("result", {})
    manifest.describe(folder, model, run, parity, result, measured, described.facts, revision=None).write(folder)


def write_configurations(repository: Path, check: bool = False) -> list[Path]:
    """Write every configuration of `repository` from its description; returns the files that differed.

    Args:
        check: write nothing.
    """
    files = Repository(repository)
    texts: dict[tuple[str, str], str] = {
        (name, Target.portable.value): describe().text()
        for name, describe in configuration.FIXED.items()
        if (repository / name).is_dir()
    }
    for name in configuration.EXPORTED:
        if files.versions(name):
            texts |= {(name, target.value): text for target, text in Rollout(name, files).texts().items()}
    changed = [key for key, text in texts.items() if _read(repository.joinpath(*key)) != text]
    for name, file in [] if check else changed:
        files.write(name, file, texts[name, file])
    return [repository.joinpath(*key) for key in changed]


def _versions(repository: Path, only: str | None = None) -> Iterator[tuple[Rollout, int]]:
    files = Repository(repository)
    for name in configuration.EXPORTED:
        for version in files.versions(name) if only in (None, name) else ():
            yield Rollout(name, files), version


def _row(model: Rollout, version: int, state: str) -> tuple[str, str, str]:
    labels = model.labels
    names = [f"{n} {labels.percent:g} %" if n == "canary" and labels.percent else n for n in labels.of(version)]
    try:
        about = _about(manifest.read(model.repository.folder(model.name, version)))
    except ManifestError as error:
        about = str(error)
    return ", ".join(names), state, about


def _about(found: Manifest) -> str:
    revision = found.git_revision[:8] if found.git_revision else "not known"
    parity = f"{found.parity['largest']:.2g} {found.parity['unit']}" if found.parity else "not known"
    numbers = {**found.result, **_flat(found.measured)}
    measured = ", ".join(f"{k} {v:.5g}" for k, v in numbers.items() if isinstance(v, int | float))
    origin = f"run {found.run}, {found.exported[:16].replace('T', ' ')}, revision {revision}"
    return f"{origin}\nlargest difference to Keras {parity}; {measured}"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under their names one after another."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = {f"{name} {k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {name: value}
        flat |= nested
    return flat


def _states(address: str | None) -> dict[tuple[str, str], str]:
    if address is None:
        return {}
    with Client(address) as client:
        return {(m.name, m.version): m.state for m in client.models()} if client.admin.live() else {}


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _positions(folder: Path) -> dict[str, Any]:
    from serving.text.decoder import positions_of

    return {"positions": positions_of(folder)}


def _styles(folder: Path) -> dict[str, Any]:
    from serving.style.table import StyleTable

    found = StyleTable.read(folder)
    vectors = {"numbers": found.rows.shape[1], "network": found.network} if found.takes_vectors else {}
    return {"styles": list(found.names), **vectors}


_FACTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "language_model": _positions,
    "style": _styles,
}
