"""Who is let in to what, and with which metadata a call goes on to Triton. Knows nothing of how a call is carried."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from reverie_client import headers
from tritonclient.grpc import service_pb2

from serving.door.guard.messages import Refused, unwrap
from serving.door.limits import CallerLimits

SERVICE = "inference.GRPCInferenceService"
HEALTH = ("ServerLive", "ServerReady", "ModelReady", "Check")
CALLS = ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer")
CONTROL = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
STREAM = "ModelStreamInfer"
_OF_A_MODEL = ("ModelMetadata", "ModelConfig", "ModelStatistics")
_API_KEY = headers.GRPC_RESTRICTED_PREFIX + headers.API_KEY
_CONTROL_KEY = headers.GRPC_RESTRICTED_PREFIX + headers.CONTROL
_GRPC_TIMEOUT = "grpc-timeout"
"""Triton keeps it for itself."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Keys:
    """What opens what.

    Attributes:
        triton: Triton asks for it with every call; nobody else knows it.
        triton_control: Triton asks for it where models are loaded.
        api: what callers show; None where they need not, or where Envoy has asked already.
        control: what publishers show.
    """

    triton: str = field(repr=False)
    triton_control: str = field(repr=False)
    control: str = field(repr=False)
    api: str | None = field(default=None, repr=False)

    def let_in(self, name: str, caller: Introduction) -> Metadata:
        """The metadata for Triton, if the caller's keys open `name`: the door's own, and of the caller's `_for_models`.

        Raises:
            Refused: they do not.
        """
        given = caller.metadata
        if name in CONTROL:
            if not caller.limits.admin:
                _ask_for(self.control, given, _CONTROL_KEY, headers.CONTROL)
            return ((_API_KEY, self.triton), (_CONTROL_KEY, self.triton_control))
        if name in HEALTH:
            return ()
        if self.api:
            _ask_for(self.api, given, _API_KEY, headers.API_KEY)
        named = ((headers.CLIENT, caller.name),) if caller.name else ()
        return ((_API_KEY, self.triton), *named, *_for_models(given))


def _for_models(given: Mapping[str, str | bytes]) -> Metadata:
    """What a caller says of its request that models take: by which id it is found, in which trace it is, how long it waits."""
    said = {name: given.get(name) for name in (headers.REQUEST_ID, headers.TRACE_PARENT, headers.TIMEOUT)}
    said[headers.TIMEOUT] = said[headers.TIMEOUT] or given.get(_GRPC_TIMEOUT)
    return tuple(
        (name, value) for name, value in said.items() if isinstance(value, str) and headers.is_request_id(value)
    )


@dataclass(frozen=True)
class Introduction:
    """Who calls, as Envoy says, and what he may."""

    metadata: Mapping[str, str | bytes] = field(repr=False)
    name: str
    limits: CallerLimits

    @classmethod
    def of(cls, metadata: Mapping[str, str | bytes]) -> Introduction:
        """Out of a call's metadata."""
        return cls(metadata, str(metadata.get(headers.CLIENT, "")), CallerLimits.from_metadata(metadata))

    def check(self, name: str, message: bytes) -> None:
        """Raise Refused if a message of the call `name` is larger than his may be, or for a model that is not his."""
        self.limits.check_size(self.name, len(message))
        if self.limits.models and name in ("ModelInfer", STREAM):
            self.limits.check_model(self.name, unwrap(message).request.model_name)
        elif self.limits.models and name in _OF_A_MODEL:
            self.limits.check_model(self.name, _model_asked_for(message))


def _model_asked_for(message: bytes) -> str:
    """The model's name is the first field of each of these requests."""
    try:
        return service_pb2.ModelConfigRequest.FromString(message).name
    except DecodeError:
        raise Refused("this is no request for a model; accepted: the fields of the Open Inference Protocol") from None


def _ask_for(key: str, given: Mapping[str, str | bytes], *names: str) -> None:
    for name in names:
        shown = given.get(name)
        if isinstance(shown, str) and hmac.compare_digest(shown.encode(), key.encode()):
            return
    raise Refused(
        f"a key is missing or wrong (restricted): the server asks for the header {names[-1]!r}",
        grpc.StatusCode.UNAUTHENTICATED,
    )
