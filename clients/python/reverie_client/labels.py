"""Names for versions, which Triton has none of: `stable`, `canary`, and any other.

They are parameters of the model's `config.pbtxt`, so one file says which versions are served and what they
are called, one `rename(2)` changes both, and every client can ask a server for them (`ModelConfig`). Written
by `export`; read by the client and by the models that call another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

STABLE = "stable"
"""What a caller gets who asks for neither a version nor a label."""
CANARY = "canary"
PREVIOUS = "previous"
"""What was `stable` before; `reverie models rollback` returns to it."""
CANDIDATE = "candidate"
"""Loaded for its smoke test; nobody is sent there."""
_NAME = re.compile("[a-z0-9_-]{1,40}")
_LABEL = "label:"
_PERCENT = "canary:percent"


@dataclass(frozen=True)
class Labels:
    """Versions by label, and how much of the traffic without a label goes to `canary`.

    Attributes:
        percent: 0 to 100.
    """

    versions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    percent: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent: {self.percent:g}; accepted: 0 to 100")
        if wrong := [name for name in self.versions if not _NAME.fullmatch(name)]:
            raise ValueError(f"label {wrong[0]!r}; accepted: a to z, 0 to 9, '-' and '_', at most 40 of them")

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> Labels:
        """From a configuration's parameters; other parameters are passed over."""
        versions = {k.removeprefix(_LABEL): int(v) for k, v in parameters.items() if k.startswith(_LABEL)}
        return cls(versions, float(parameters.get(_PERCENT, 0)))

    @classmethod
    def of_configuration(cls, config: model_config_pb2.ModelConfig) -> Labels:
        """From Triton's own message."""
        return cls.of_parameters({k: v.string_value for k, v in config.parameters.items()})

    @classmethod
    def read(cls, path: Path) -> Labels:
        """From a `config.pbtxt`; none from a file that is absent."""
        return cls.parse(path.read_text()) if path.exists() else cls()

    @classmethod
    def parse(cls, text: str) -> Labels:
        """From the text of a `config.pbtxt`."""
        return cls.of_configuration(text_format.Parse(text, model_config_pb2.ModelConfig()))

    def parameters(self) -> dict[str, str]:
        """As parameters of a configuration; the inverse of `of_parameters`."""
        labels = {f"{_LABEL}{name}": str(version) for name, version in sorted(self.versions.items())}
        return labels | ({_PERCENT: f"{self.percent:g}"} if self.percent else {})

    @property
    def stable(self) -> int | None:
        return self.versions.get(STABLE)

    def of(self, version: int) -> list[str]:
        """The labels that name `version`."""
        return sorted(name for name, named in self.versions.items() if named == version)

    def sample_version(self, chance: float) -> int | None:
        """The version for a call without a label; `chance` is uniform in [0, 1). None where nothing is labeled."""
        canary = self.versions.get(CANARY)
        return canary if canary is not None and chance * 100 < self.percent else self.stable

    def without_label(self, *names: str) -> Labels:
        """The same without some labels; without `canary` nothing is split."""
        left = {name: version for name, version in self.versions.items() if name not in names}
        return Labels(left, self.percent if CANARY in left else 0.0)

    def with_label(self, name: str, version: int) -> Labels:
        """The same with `name` on `version`. Whatever becomes `stable` leaves its predecessor as `previous`."""
        versions = {**self.versions, name: version}
        if name != STABLE:
            return Labels(versions, self.percent)
        found = Labels(versions, self.percent).without_label(
            PREVIOUS, *([CANARY] if versions.get(CANARY) == version else [])
        )
        older = self.stable if self.stable != version else self.versions.get(PREVIOUS)
        # A newer one is no way back: Triton answers callers who name no version with the newest that is served.
        if older is not None and older < version:
            found = Labels({**found.versions, PREVIOUS: older}, found.percent)
        return found

    def with_split(self, version: int, percent: float) -> Labels:
        """The same with `version` as `canary`, which gets `percent` of the traffic without a label."""
        return Labels({**self.versions, CANARY: version}, percent)
