"""A caller's limits, as the door tells them to what lies behind it, and what of them is kept there.

Envoy has no filter for calls at the same time of one caller, and cannot see the model that a message names; its Lua has a
state for each thread and no word of a call's end. The guard is one process that every call of a model passes, and knows
both. Knows nothing of Envoy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import grpc

from serving.door.guard.messages import Refused

HEADER = "reverie-limits"
"""Set by the door, and taken away where a caller sends it."""


class LimitExceeded(Refused):
    """A call that its caller may not make, or not now.

    Attributes:
        retry_after: seconds after which trying again makes sense; None where it does not.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: int | None = None):
        super().__init__(message, code)
        self.retry_after = retry_after


@dataclass(frozen=True)
class CallerLimits:
    """What one caller may; nothing is limited by default.

    Attributes:
        models: that he may call; none means all.
        streams: his calls at the same time; 0 for any number.
        body_mib: the largest message in MiB; 0 for what the server takes.
        admin: whether he may load and unload models.
    """

    models: tuple[str, ...] = ()
    streams: int = 0
    body_mib: int = 0
    admin: bool = False

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str | bytes]) -> CallerLimits:
        """Out of what the door says with a call; no limits where it says none."""
        said = json.loads(metadata.get(HEADER) or "{}")
        return cls(**said | {"models": tuple(said.get("models", ()))})

    def header(self) -> str:
        """What the door says; limits that are none are left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    def check_model(self, caller: str, model: str) -> None:
        """Raise LimitExceeded if `caller` may not call `model`."""
        if self.models and model not in self.models:
            raise LimitExceeded(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the key {caller} may not call {model[:80]!r}; accepted: the models {', '.join(self.models)}",
            )

    def check_size(self, caller: str, size: int) -> None:
        """Raise LimitExceeded if a message of `size` bytes is larger than those of `caller` may be."""
        if self.body_mib and size > self.body_mib * 2**20:
            raise LimitExceeded(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{size} bytes; accepted: at most {self.body_mib} MiB with the key {caller}",
            )


class CallsAtOnce:
    """Counts the calls of each caller that are being answered; used by one thread or event loop."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    def begin(self, caller: str, limits: CallerLimits) -> Callable[[], None]:
        """Count a call of `caller`.

        Returns:
            What is to be called at its end, once.

        Raises:
            LimitExceeded: `caller` has as many calls as he may.
        """
        if limits.streams and self._running[caller] >= limits.streams:
            raise LimitExceeded(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._running[caller]} calls of the key {caller} are being answered; accepted: {limits.streams} at the "
                "same time; try again when one has ended",
                retry_after=1,
            )
        self._running[caller] += 1
        return lambda: self._end(caller)

    def _end(self, caller: str) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]  # So that names do not pile up.
