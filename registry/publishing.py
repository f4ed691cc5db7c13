"""From finished runs to served versions: export, publish, label, roll back, and drop what no label names."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reverie_client import Client, ReverieError, hosts
from reverie_client.labels import CANDIDATE, PREVIOUS, STABLE, Labels

from export.onnx.precision import CPU_DEFAULT, Precision
from registry.repository import Repository
from registry.rollout import Model, SwitchError
from registry.staging import Exported, Staged
from reverie.progress import say
from training.runs import Run, RunError

KEEP = 5
"""Newest versions that stay on disk without a label."""
KINDS = ("language_model", "style")
_CONNECT_S = 2.0

Warn = Callable[[str], None]


class PublishError(Exception):
    """A version was not published; the old one still serves."""


@dataclass(frozen=True)
class Published:
    """A version that is in the repository.

    Attributes:
        served: whether a running server answers with it already.
        pruned: older versions that were removed.
    """

    exported: Exported
    version: int
    served: bool = False
    pruned: tuple[int, ...] = ()


def export_runs(
    kind: str | None,
    run: Path | None,
    runs: Path,
    repository: Path,
    address: str | None = None,
    label: str = STABLE,
    precision: Precision = CPU_DEFAULT,
    is_required: bool = False,
    warn: Warn = lambda sentence: None,
) -> Iterator[Published]:
    """Export and publish one run, or the newest finished run of every kind.

    Args:
        address: of a server that should serve the result at once, if one answers there.
        is_required: a server must answer at `address`.
        precision: of a style network's `model.onnx`, in which a CPU computes.
        warn: told in a sentence, before it happens, what callers of the server will notice; not called if they notice nothing.

    Raises:
        RunError: there is no finished run to export.
        ParityError, PrecisionError: a graph departs from Keras, or a precision from float32; nothing was published.
        PublishError: the version did not get into service; it is gone and the old one serves. Or the server did not
            answer (see `connected`), which is found before anything is converted.
    """
    from registry.staging import staged

    chosen = {kind: Run(run)} if kind and run else _newest(kind, runs)
    with connected(address, is_required):  # Before minutes of work, and not silently on disk alone.
        pass
    for name, found in chosen.items():
        say(f"{name}: exporting {found.path}")  # TensorFlow, imported next, takes seconds.
        try:
            with staged(found, _exporter(name, precision), Repository(repository), name) as version:
                published = publish(version, Repository(repository), address, label, is_required=is_required, warn=warn)
        except OSError as error:
            raise PublishError(f"{name}: {_reason(error)}; nothing was published") from error
        yield published


def publish(
    staged: Staged,
    repository: Repository,
    address: str | None = None,
    label: str = STABLE,
    keep: int = KEEP,
    drain_seconds: float = 5.0,
    is_required: bool = False,
    warn: Warn = lambda sentence: None,
) -> Published:
    """Put a staged version into the repository under `label`, and into service where a server answers.

    Raises:
        PublishError: it failed; the version is gone and what served before serves.
    """
    name = staged.exported.model
    with connected(address, is_required) as client, repository.lock():
        repository.sweep()
        model = Model(name, repository, client, drain_seconds)
        before = model.labels
        try:
            version = repository.publish(name, staged.files)
        except OSError as error:
            raise PublishError(f"{name}: {_reason(error)}; nothing was published") from error
        try:
            _switch(model, _naming(before, label, version), warn)
        except BaseException as error:
            with suppress(OSError):
                repository.withdraw(name, version)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, OSError):
                raise PublishError(f"{name}: {_reason(error)}; nothing was published") from error
            raise PublishError(f"{name} version {version} was withdrawn: {error}") from error
        repository.record(event="published", model=name, version=version, label=label, was=before.versions.get(label))
        return Published(staged.exported, version, client is not None, tuple(prune(model, keep)))


def promote(model: Model, version: int, label: str = STABLE, warn: Warn = lambda sentence: None) -> None:
    """Let `label` name `version`; `warn` as in `export_runs`.

    Raises:
        SwitchError: there is no such version, or it does not serve; nothing changed.
    """
    with model.repository.lock():
        before = model.labels
        _switch(model, _naming(before, label, version), warn)
        model.repository.record(
            event="promoted", model=model.name, version=version, label=label, was=before.versions.get(label)
        )


def rollback(model: Model, warn: Warn = lambda sentence: None) -> int:
    """Make the version stable that was stable before; returns it. `warn` as in `export_runs`.

    Raises:
        SwitchError: none is labelled `previous`, or it does not serve; nothing changed.
    """
    with model.repository.lock():
        before = model.labels
        version = before.versions.get(PREVIOUS)
        if version is None:
            raise SwitchError(_no_way_back(model, before))
        _switch(model, before.without(PREVIOUS).naming(STABLE, version), warn)
        model.repository.record(event="rolled back", model=model.name, version=version, label=STABLE, was=before.stable)
        return version


def _switch(model: Model, labels: Labels, warn: Warn) -> None:
    if model.client is not None:
        say(f"{model.name}: the server changes over, and calls under way are waited for")
    if sentence := model.interruption(labels):
        warn(sentence)
    model.switch(labels)


def _no_way_back(model: Model, labels: Labels) -> str:
    """Why there is nothing to roll back to, and what may be promoted instead."""
    said = f"{model.name} has no version labelled {PREVIOUS}"
    there = model.repository.versions(model.name)
    others = [version for version in there if version != labels.stable]
    if not others:
        return f"{said}, and no other version; publish one with 'reverie export'"
    was = _stable_before(model, labels.stable)
    if was is not None and labels.stable is not None and was > labels.stable:
        said += (
            f": version {labels.stable} took the place of version {was}, which is newer, and {PREVIOUS} is always "
            "older, since callers who name no version get the newest that is served"
        )
    back = was if was in others else others[-1]
    return (
        f"{said}; to go back to version {back}: 'reverie models promote {model.name} {back}'; "
        f"there are: {', '.join(map(str, there))}"
    )


def _stable_before(model: Model, version: int | None) -> int | None:
    """What `version` took the place of when it became stable, as the history says."""
    events = model.repository.history(model.name)
    found = [e["was"] for e in events if e.get("label") == STABLE and e.get("version") == version and e.get("was")]
    return found[-1] if found else None


def prune(model: Model, keep: int = KEEP) -> list[int]:
    """Remove all versions but the `keep` newest and those that a label names; returns what was removed."""
    versions = model.repository.versions(model.name)
    labelled = set(model.labels.versions.values())
    old = [v for v in versions[: max(0, len(versions) - keep)] if v not in labelled]
    for version in old:
        with suppress(OSError):  # What stays takes space and nothing else; the next export tries again.
            model.repository.withdraw(model.name, version)
    return old


@contextmanager
def connected(address: str | None, is_required: bool = False) -> Iterator[Client | None]:
    """A client of the server at `address`; None where nothing listens there, or none is named.

    Raises:
        PublishError: a server listens there and does not answer, or `is_required` and none answers.
    """
    if address is None:
        yield None
        return
    with Client(address) as client:
        yield client if _answers(client, address, is_required) else None


def _answers(client: Client, address: str, is_required: bool) -> bool:
    try:
        client.check_live()
    except ReverieError as error:
        if not is_required and not _listens(address):
            return False
        raise PublishError(
            f"the server at {address} does not answer, so nothing was changed ({error}); start it, name another with "
            "--address, or end what listens there to change the files alone"
        ) from None
    return True


def _listens(address: str) -> bool:
    """Whether anything takes connections at `address`."""
    target = hosts.split_target(address)
    try:
        socket.create_connection(target or (address, 0), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _naming(labels: Labels, label: str, version: int) -> Labels:
    if label in (CANDIDATE, PREVIOUS):
        raise SwitchError(f"label {label!r} is set by publishing; accepted: {STABLE}, canary, or a name of your own")
    try:
        return labels.naming(label, version)
    except ValueError as error:
        raise SwitchError(str(error)) from None


def _exporter(kind: str, precision: Precision) -> Callable[[Run, Path], Exported]:
    """Imported here: TensorFlow takes seconds, and only an export needs it."""
    if kind == "style":
        from export.style.export import export_style

        return partial(export_style, precision=precision)
    from export.language_model.export import export_language_model

    return export_language_model


def _reason(error: OSError) -> str:
    return f"{error.filename or 'the repository'}: {error.strerror}"


def _newest(kind: str | None, runs: Path) -> dict[str, Run]:
    found = {}
    for name in [kind] if kind else KINDS:
        try:
            found[name] = Run.newest_finished(name, runs)
        except RunError:
            continue
    if not found:
        raise RunError(
            f"no finished run of {kind or ' or '.join(KINDS)} under {runs}; train one with 'make train-lm' or 'make train-style'"
        )
    return found
