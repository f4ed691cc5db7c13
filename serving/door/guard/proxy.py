"""Carry gRPC calls over to Triton: checked, with the door's own metadata, and out of a caller's reach once it runs.

A call that answers once is finished in Triton whatever becomes of its caller: Triton 2.51 ends now and then where one is
cancelled while it is answered (server issue 7368). A stream is cancelled with its caller, which Triton survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from reverie_client import headers
from tritonclient.grpc import service_pb2

from serving.door.guard.messages import Refused, check, unwrap
from serving.door.limits import CallerLimits, CallsAtOnce, LimitExceeded

SERVICE = "inference.GRPCInferenceService"
HEALTH = ("ServerLive", "ServerReady", "ModelReady")
CALLS = ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer")
CONTROL = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
STREAM = "ModelStreamInfer"
_OF_A_MODEL = ("ModelMetadata", "ModelConfig", "ModelStatistics")
_STANDARD_HEALTH = "/grpc.health.v1.Health/Check"
_API_KEY = headers.GRPC_RESTRICTED_PREFIX + headers.API_KEY
_CONTROL_KEY = headers.GRPC_RESTRICTED_PREFIX + headers.CONTROL
_SHARED_MEMORY = re.compile(
    r"\S*(?:shm|shared_memory)\S*region\S*|/dev/shm/\S*|\S*triton-[0-9a-f]{12}\S*", re.IGNORECASE
)
"""Names that Triton's errors give away of the memory that its models share with it (CVE-2025-23320)."""
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip


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


@dataclass
class Proxy(grpc.GenericRpcHandler):
    """Handles every call that `guard.lua` lets through, and knows no other.

    Attributes:
        triton: its gRPC address.
        message_bytes: the largest message that is taken.
    """

    triton: str
    keys: Keys
    message_bytes: int
    _running: set[Any] = field(default_factory=set, init=False, repr=False)
    _at_once: CallsAtOnce = field(default_factory=CallsAtOnce, init=False, repr=False)

    def __post_init__(self) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(
            self.triton, [*limits, *_RECONNECT, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        )
        self._handlers: dict[str, grpc.RpcMethodHandler] = {
            f"/{SERVICE}/{STREAM}": grpc.stream_stream_rpc_method_handler(self._stream(f"/{SERVICE}/{STREAM}")),
            _STANDARD_HEALTH: grpc.unary_unary_rpc_method_handler(self._unary(_STANDARD_HEALTH)),
        }
        for name in (*HEALTH, *CALLS, *CONTROL):
            path = f"/{SERVICE}/{name}"
            self._handlers[path] = grpc.unary_unary_rpc_method_handler(self._unary(path, name))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """gRPC's: the handler of a call; None answers UNIMPLEMENTED."""
        return self._handlers.get(details.method)

    def _unary(self, path: str, name: str = "Check") -> Any:
        carry = self._channel.unary_unary(path)

        async def handle(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                caller = _Introduction.of(context)
                metadata = self._let_in(name, caller)
                if name == "ModelInfer":
                    check(message)
                caller.check(name, message)
                end = self._at_once.begin(caller.name, caller.limits)
                return await self._finished(carry(message, metadata=metadata), end)
            except Refused as refused:
                await _abort(context, refused)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), redacted(error.details() or ""))
            raise AssertionError("an aborted call does not return")

        return handle

    async def _finished(self, call: Any, end: Callable[[], None]) -> bytes:
        """Its answer. Where the caller leaves meanwhile the call goes on without one, and counts as one of his.

        Awaiting it would cancel it.
        """
        done = asyncio.get_running_loop().create_future()
        self._running.add(call)  # The loop itself refers to it weakly.

        def finish(_: Any) -> None:
            self._running.discard(call)
            end()
            if not done.done():
                done.set_result(None)

        call.add_done_callback(finish)
        await done
        return await call

    def _stream(self, path: str) -> Any:
        open_stream = self._channel.stream_stream(path)

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            try:
                caller = _Introduction.of(context)
                metadata = self._let_in(STREAM, caller)
                end = self._at_once.begin(caller.name, caller.limits)
            except Refused as refused:
                await _abort(context, refused)
            call = open_stream(metadata=metadata)
            sending = asyncio.ensure_future(_send(messages, call, caller))
            try:
                async for answer in call:
                    await context.write(answer)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if harmful := _refusal(sending):
                    await _abort(context, harmful)
                if isinstance(error, asyncio.CancelledError):
                    raise
                await context.abort(error.code(), redacted(error.details() or ""))
            finally:
                end()
                call.cancel()
                sending.cancel()

        return handle

    def _let_in(self, name: str, caller: _Introduction) -> tuple[tuple[str, str], ...]:
        """The metadata for Triton, if the caller's keys open `name`: the door's own, and of the caller's `_for_models`."""
        given = caller.metadata
        if name in CONTROL:
            if not caller.limits.admin:
                _ask_for(self.keys.control, given, _CONTROL_KEY, headers.CONTROL)
            return ((_API_KEY, self.keys.triton), (_CONTROL_KEY, self.keys.triton_control))
        if name in HEALTH or name == "Check":
            return ()
        if self.keys.api:
            _ask_for(self.keys.api, given, _API_KEY, headers.API_KEY)
        named = ((headers.CLIENT, caller.name),) if caller.name else ()
        return ((_API_KEY, self.keys.triton), *named, *_for_models(given))


def _for_models(given: Mapping[str, str | bytes]) -> tuple[tuple[str, str], ...]:
    """What a caller says of its request that models take: by which id it is found, in which trace it is, how long it waits."""
    said = ((name, given.get(name)) for name in (headers.REQUEST_ID, headers.TRACE_PARENT, headers.TIMEOUT))
    return tuple((name, value) for name, value in said if isinstance(value, str) and headers.is_request_id(value))


@dataclass(frozen=True)
class _Introduction:
    """Who calls, as Envoy says, and what he may."""

    metadata: Mapping[str, str | bytes] = field(repr=False)
    name: str
    limits: CallerLimits

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext) -> _Introduction:
        given = dict(context.invocation_metadata() or ())
        return cls(given, str(given.get(headers.CLIENT, "")), CallerLimits.from_metadata(given))

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


async def _abort(context: grpc.aio.ServicerContext, refused: Refused) -> None:
    if isinstance(refused, LimitExceeded) and refused.retry_after is not None:
        context.set_trailing_metadata((("retry-after", str(refused.retry_after)),))
    await context.abort(refused.code, refused.message)


async def _send(messages: AsyncIterator[bytes], call: Any, caller: _Introduction) -> None:
    """Everything that the caller sends; a message that is refused ends the stream."""
    try:
        async for message in messages:
            check(message)
            caller.check(STREAM, message)
            await call.write(message)
        await call.done_writing()
    except Refused:
        call.cancel()
        raise
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # The stream has ended in Triton; whoever reads its answers is told why.


def _refusal(sending: asyncio.Future) -> Refused | None:
    error = sending.exception() if sending.done() and not sending.cancelled() else None
    return error if isinstance(error, Refused) else None


def _ask_for(key: str, given: Mapping[str, str | bytes], *names: str) -> None:
    for name in names:
        shown = given.get(name)
        if isinstance(shown, str) and hmac.compare_digest(shown.encode(), key.encode()):
            return
    raise Refused(
        f"a key is missing or wrong (restricted): the server asks for the header {names[-1]!r}",
        grpc.StatusCode.UNAUTHENTICATED,
    )


def redacted(text: str) -> str:
    """`text` without names of shared memory."""
    return _SHARED_MEMORY.sub("(a name)", text)


async def serve(proxy: Proxy, address: str, requests: int, ready: Any, stop: asyncio.Event) -> None:
    """Take calls at `address` until `stop`.

    Args:
        address: as gRPC takes it, "unix:PATH".
        requests: calls at a time.
        ready: called without arguments once it listens.
    """
    options = [
        ("grpc.max_receive_message_length", proxy.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", requests),
        # Bit 0 is identity: nothing is inflated here.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
    server = grpc.aio.server(handlers=[proxy], options=options)
    server.add_insecure_port(address)
    await server.start()
    ready()
    await stop.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await server.stop(1.0)
