"""Change what a model serves, on disk and in a running server: as a whole, or not at all.

A change is a new set of labels. Versions that they name are loaded beside those served so far and must answer
as recorded; then the labels move, then the Python models that pin a version, and only then does what nobody
names any more go. If any step fails, the configuration from before is put back and loaded.

Reaches a server only through the client; without one it changes the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf import text_format
from reverie_client import Client, ReverieError
from reverie_client.labels import CANARY, CANDIDATE, PREVIOUS, STABLE, Labels
from tritonclient.grpc import model_config_pb2

from registry import configuration, golden, manifest
from registry.model_configuration import ModelConfiguration, Target
from registry.repository import Repository
from reverie.errors import ToolkitError

_READY_SECONDS = 60.0
_SETTLED_SECONDS = 10.0


class SwitchError(ToolkitError):
    """What a model serves could not be changed; everything is as it was before, or the message says what is not."""


@dataclass(frozen=True)
class Rollout:
    """An exported model in a repository, and the server that serves it, if one runs.

    Attributes:
        drain_seconds: how long a version that nothing names any more is still served, so that calls which
            had already chosen it end.
    """

    name: str
    repository: Repository
    client: Client | None = None
    drain_seconds: float = 5.0

    @property
    def labels(self) -> Labels:
        """The labels of versions that exist; where none were given yet, the newest that is there is stable."""
        found = Labels.read(self.repository.path / self.name / Target.portable.value)
        there = self.repository.versions(self.name)
        gone = [name for name, version in found.versions.items() if version not in there]
        found = found.without_label(CANDIDATE, *gone)
        return found.with_label(STABLE, there[-1]) if found.stable is None and there else found

    def description(self, version: int) -> ModelConfiguration:
        """Of a version, from its manifest.

        Raises:
            ManifestError: there is none.
        """
        facts = manifest.read(self.repository.folder(self.name, version)).configuration
        return configuration.EXPORTED[self.name](**facts)

    def infer(self, version: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the server's `version` answers; needs a server.

        Raises:
            ReverieError: it does not answer.
        """
        assert self.client is not None
        return self.client.infer(self.name, dict(inputs), version=str(version)).outputs

    def served(self, labels: Labels) -> list[int]:
        """The versions to serve under `labels`: those that are named and take what `stable` takes."""
        return [v for v in sorted(set(labels.versions.values())) if self._fits(v, labels)]

    def interruption(self, labels: Labels) -> str:
        """What callers will notice while `labels` become the model's, a sentence; empty where they notice nothing.

        A server cannot hold versions side by side that take other inputs, so it has a moment without a version that callers
        may ask for.
        """
        before = self.labels.stable
        if self.client is None or before is None or labels.stable is None or self._fits(before, labels):
            return ""
        dependents = configuration.DEPENDENTS[self.name]
        through = f" through {' and '.join(dependents)}" if dependents else ""
        ours, theirs = (self._inputs(version) for version in (labels.stable, before))
        return (
            f"{self.name} version {labels.stable} takes other inputs ({ours}) than version {before}, which is served ({theirs}); "
            f"the server cannot hold both, so calls{through} may be refused as UNAVAILABLE for about a second while it changes"
        )

    def _inputs(self, version: int) -> str:
        """Of a version, in words."""
        description = self.description(version)
        styles = description.facts.get("styles")
        counted = f"{len(styles)} style{'s' if len(styles) != 1 else ''}; " if styles else ""
        return counted + ", ".join(f"{tensor.name} {list(tensor.dims)}" for tensor in description.inputs)

    def switch(self, labels: Labels) -> None:
        """Make `labels` the model's.

        Raises:
            SwitchError: it failed and was undone.
            ManifestError: a version was altered since its export.
        """
        self._check(labels)
        first = not (self.repository.path / self.name / Target.portable.value).exists()
        with self.repository.restoring(self.name, [target.value for target in Target]) as restore:
            try:
                self._apply(labels)
            except BaseException as error:
                self._undo(restore, first, error)
                raise

    def texts(self, labels: Labels | None = None, versions: Sequence[int] = ()) -> dict[Target, str]:
        """The model's configuration files: as they should be now, or under other labels."""
        labels = labels or self.labels
        description = self.description(labels.stable or max(labels.versions.values()))
        versions = versions or self.served(labels)
        texts = {target: description.text(versions, labels, target) for target in description.targets}
        for target, text in texts.items():
            _parse(text, self.name, target)
        return texts

    def _write(self, labels: Labels, versions: Sequence[int]) -> None:
        # The portable file last: labels are read from it.
        for target, text in self.texts(labels, versions).items():
            self.repository.write(self.name, target.value, text)

    def _apply(self, labels: Labels) -> None:
        served = self.served(labels)
        if self.client is None:
            self._write(labels, served)
            return
        before = self.labels
        kept = [v for v in self.served(before) if self._fits(v, labels)]
        both = sorted({*kept, *served})
        fresh = [v for v in served if v not in kept]
        if fresh and before.stable in kept:
            self._load(before.with_label(CANDIDATE, fresh[-1]), both)
            self._smoke_test(fresh)
        self._load(labels, both)
        self._smoke_test(served)
        if _traffic(before) != _traffic(labels):
            self._reload_dependents()
        if both != served:
            time.sleep(self.drain_seconds)
            self._load(labels, served)
            self._settle()

    def _load(self, labels: Labels, versions: Sequence[int]) -> None:
        assert self.client is not None
        self._write(labels, versions)
        self.client.admin.load(self.name)
        deadline = time.monotonic() + _READY_SECONDS
        while missing := self._not_ready(versions):
            if time.monotonic() > deadline:
                raise SwitchError(
                    f"the server does not serve version {missing[0]}; does it serve {self.repository.path.resolve()}?"
                )
            time.sleep(0.1)

    def _not_ready(self, versions: Sequence[int]) -> list[int]:
        assert self.client is not None
        known = {int(m.version): m.state for m in self.client.models() if m.name == self.name and m.version}
        # What the server has never heard of will not become ready; it serves another folder.
        if unknown := [v for v in versions if v not in known]:
            raise SwitchError(
                f"the server does not know version {unknown[0]}; does it serve {self.repository.path.resolve()}?"
            )
        return [v for v in versions if known[v] != "READY"]

    def _smoke_test(self, versions: Sequence[int]) -> None:
        assert self.client is not None
        for version in versions:
            recorded = golden.read(self.repository.folder(self.name, version))
            if recorded is not None:
                golden.compare_any(self.infer(version, recorded.inputs), recorded)

    def _reload_dependents(self) -> None:
        assert self.client is not None
        for dependent in configuration.DEPENDENTS[self.name]:
            if (self.repository.path / dependent).is_dir():
                # Triton reloads only what is newer on disk.
                self.repository.touch(dependent)
                self.client.admin.load(dependent)

    def _check(self, labels: Labels) -> None:
        """Named versions exist and are whole; whatever carries a share of the traffic takes what `stable` takes."""
        there = self.repository.versions(self.name)
        for version in labels.versions.values():
            if version not in there:
                raise SwitchError(
                    f"{self.name} has no version {version}; it has {', '.join(map(str, there)) or 'none'}"
                )
        before = self.labels.versions
        moved = [v for n, v in labels.versions.items() if n != PREVIOUS and before.get(n) != v]
        for version in moved:
            manifest.verify(self.repository.folder(self.name, version))
        if unfit := [v for v in moved if not self._fits(v, labels)]:
            raise SwitchError(
                f"{self.name} version {unfit[0]} takes other inputs than the stable version {labels.stable}, so the two "
                f"cannot be served side by side; promote it to {STABLE} instead"
            )

    def _fits(self, version: int, labels: Labels) -> bool:
        return labels.stable is None or self.description(version).signature == self.description(labels.stable).signature

    def _undo(self, restore: Callable[[], None], first: bool, cause: BaseException) -> None:
        """Put the configuration back and load it; before the first one there was nothing to load."""
        try:
            restore()
            if self.client is not None and not first:
                self.client.admin.load(self.name)
                self._forget_failed()
                self._reload_dependents()
        except (ReverieError, OSError) as error:
            raise SwitchError(f"{_message(cause)}; and it could not be undone: {_message(error)}") from cause
        if isinstance(cause, Exception):
            raise SwitchError(f"{_message(cause)}; everything is as it was before") from cause

    def _forget_failed(self) -> None:
        """Have the server no longer count versions that failed to load among those that it should serve.

        Triton 2.51 keeps such a version as failed, and itself as not ready, until the version has been loaded; one
        that was loaded and is unloaded does not count. So they are loaded once more, with the stable version's graph.
        """
        assert self.client is not None
        kept = self.served(self.labels)
        if self.client.ready() or not (failed := self._failed(kept)):
            return
        self.client.admin.load(self.name, self._standing_in(self.labels.stable or kept[-1], [*kept, *failed]))
        self.repository.touch(self.name)  # Triton reloads only what is newer on disk.
        self.client.admin.load(self.name)
        self._settle()

    def _failed(self, kept: Sequence[int]) -> list[int]:
        assert self.client is not None
        there = self.repository.versions(self.name)
        states = {int(m.version): m.state for m in self.client.models() if m.name == self.name and m.version}
        return [v for v, state in states.items() if v in there and v not in kept and state == "UNAVAILABLE"]

    def _standing_in(self, version: int, versions: Sequence[int]) -> model_config_pb2.ModelConfig:
        """The model's configuration, but that `versions` are served and all of them run the graph of `version`."""
        text = (self.repository.path / self.name / Target.portable.value).read_text()
        found = text_format.Parse(text, model_config_pb2.ModelConfig())
        found.version_policy.specific.versions[:] = versions
        found.default_model_filename = f"../{version}/{found.default_model_filename or golden.MODEL}"
        return found

    def _settle(self) -> None:
        """Wait until the server has let go of the versions that it serves no more; it is not ready before."""
        assert self.client is not None
        deadline = time.monotonic() + _SETTLED_SECONDS
        while not self.client.ready() and time.monotonic() < deadline:
            time.sleep(0.05)


def _traffic(labels: Labels) -> tuple[int | None, int | None, float]:
    """Where calls without a label go."""
    return labels.stable, labels.versions.get(CANARY), labels.percent


def _message(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'the repository'} cannot be written: {error.strerror}"
    # What a server adds after the first line is a trace of its own code.
    return error.message.splitlines()[0] if isinstance(error, ReverieError) and error.message else str(error)


def _parse(text: str, model: str, target: Target) -> None:
    try:
        text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise SwitchError(f"{target.value} of {model} does not parse: {error}") from None
