"""From staged to served versions: publish, label, roll back, and drop what no label names."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from reverie_client import Client, ReverieError, hosts
from reverie_client.labels import CANDIDATE, PREVIOUS, STABLE, Labels

from registry.history import History
from registry.repository import Repository
from registry.rollout import Rollout, SwitchError
from registry.staging import ExportResult, StagedVersion
from reverie.errors import ToolkitError
from reverie.progress import say

KEEP = 5
"""Newest versions that stay on disk without a label."""
_CONNECT_S = 2.0

Warn = Callable[[str], None]


class PublishError(ToolkitError):
    """A version was not published; the old one still serves."""


@dataclass(frozen=True)
class Published:
    """A version that is in the repository.

    Attributes:
        served: whether a running server answers with it already.
        pruned: older versions that were removed.
    """

    exported: ExportResult
    version: int
    served: bool = False
    pruned: tuple[int, ...] = ()


def publish(
    staged: StagedVersion,
    repository: Repository,
    address: str | None = None,
    label: str = STABLE,
    keep: int = KEEP,
    drain_seconds: float = 5.0,
    is_required: bool = False,
    warn: Warn = lambda sentence: None,
) -> Published:
    """Put a staged version into the repository under `label`, and into service where a server answers.

    Args:
        address: of a server that should serve the result at once, if one answers there.
        keep: newest versions that stay without a label.
        is_required: a server must answer at `address`.
        warn: told in a sentence, before it happens, what callers of the server will notice; not called if they notice nothing.

    Raises:
        PublishError: it failed; the version is gone and what served before serves.
    """
    name = staged.exported.model
    with connected(address, is_required) as client, repository.lock():
        repository.sweep()
        model = Rollout(name, repository, client, drain_seconds)
        before = model.labels
        try:
            version = repository.publish(name, staged.files)
        except OSError as error:
            raise PublishError(f"{name}: {reason(error)}; nothing was published") from error
        try:
            _switch(model, _naming(before, label, version), warn)
        except BaseException as error:
            with suppress(OSError):
                repository.withdraw(name, version)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, OSError):
                raise PublishError(f"{name}: {reason(error)}; nothing was published") from error
            raise PublishError(f"{name} version {version} was withdrawn: {error}") from error
        History(repository.path).record(
            event="published", model=name, version=version, label=label, was=before.versions.get(label)
        )
        return Published(staged.exported, version, client is not None, tuple(prune(model, keep)))


def promote(model: Rollout, version: int, label: str = STABLE, warn: Warn = lambda sentence: None) -> None:
    """Let `label` name `version`; `warn` as in `publish`.

    Raises:
        SwitchError: there is no such version, or it does not serve; nothing changed.
    """
    with model.repository.lock():
        before = model.labels
        _switch(model, _naming(before, label, version), warn)
        History(model.repository.path).record(
            event="promoted", model=model.name, version=version, label=label, was=before.versions.get(label)
        )


def rollback(model: Rollout, warn: Warn = lambda sentence: None) -> int:
    """Make the version stable that was stable before; returns it. `warn` as in `publish`.

    Raises:
        SwitchError: none is labeled `previous`, or it does not serve; nothing changed.
    """
    with model.repository.lock():
        before = model.labels
        version = before.versions.get(PREVIOUS)
        if version is None:
            raise SwitchError(_no_way_back(model, before))
        _switch(model, before.without_label(PREVIOUS).with_label(STABLE, version), warn)
        History(model.repository.path).record(
            event="rolled back", model=model.name, version=version, label=STABLE, was=before.stable
        )
        return version


def _switch(model: Rollout, labels: Labels, warn: Warn) -> None:
    if model.client is not None:
        say(f"{model.name}: the server changes over, and calls under way are waited for")
    if sentence := model.interruption(labels):
        warn(sentence)
    model.switch(labels)


def _no_way_back(model: Rollout, labels: Labels) -> str:
    """Why there is nothing to roll back to, and what may be promoted instead."""
    said = f"{model.name} has no version labeled {PREVIOUS}"
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


def _stable_before(model: Rollout, version: int | None) -> int | None:
    """What `version` took the place of when it became stable, as the history says."""
    events = History(model.repository.path).events(model.name)
    found = [e["was"] for e in events if e.get("label") == STABLE and e.get("version") == version and e.get("was")]
    return found[-1] if found else None


def prune(model: Rollout, keep: int = KEEP) -> list[int]:
    """Remove all versions but the `keep` newest and those that a label names; returns what was removed."""
    versions = model.repository.versions(model.name)
    labeled = set(model.labels.versions.values())
    old = [v for v in versions[: max(0, len(versions) - keep)] if v not in labeled]
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
        client.admin.check_live()
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
        return labels.with_label(label, version)
    except ValueError as error:
        raise SwitchError(str(error)) from None


def reason(error: OSError) -> str:
    return f"{error.filename or 'the repository'}: {error.strerror}"
