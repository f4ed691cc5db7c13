"""Carry gRPC calls over to Triton: checked, with the door's own metadata, and out of a caller's reach once it runs.

A call that answers once is finished in Triton whatever becomes of its caller: Triton 2.51 ends now and then where one is
cancelled while it is answered (server issue 7368). Callers' streams, which Triton lets be cancelled, are Envoy's to carry over;
it asks `processor` about them. The gateway's, which come here past Envoy, are carried over here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from serving.door.guard.admission import CALLS, CONTROL, HEALTH, SERVICE, STREAM, Introduction, Keys
from serving.door.guard.messages import Refused, check
from serving.door.guard.processor import Processor
from serving.door.guard.processor_messages import PROCESS
from serving.door.guard.redaction import redacted
from serving.door.limits import CallsAtOnce, LimitExceeded

_HEALTH_SERVICE = "grpc.health.v1.Health"
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip


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
            PROCESS: Processor(self.keys, self._at_once, self.message_bytes).handler(),
        }
        for name in (*HEALTH, *CALLS, *CONTROL):
            path = f"/{_HEALTH_SERVICE if name == 'Check' else SERVICE}/{name}"
            self._handlers[path] = grpc.unary_unary_rpc_method_handler(self._unary(path, name))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """gRPC's: the handler of a call; None answers UNIMPLEMENTED."""
        return self._handlers.get(details.method)

    def _unary(self, path: str, name: str) -> Any:
        carry = self._channel.unary_unary(path)

        async def handle(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                caller = Introduction.of(dict(context.invocation_metadata() or ()))
                metadata = self.keys.let_in(name, caller)
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
                caller = Introduction.of(dict(context.invocation_metadata() or ()))
                metadata = self.keys.let_in(STREAM, caller)
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


async def _send(messages: AsyncIterator[bytes], call: Any, caller: Introduction) -> None:
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


async def _abort(context: grpc.aio.ServicerContext, refused: Refused) -> None:
    if isinstance(refused, LimitExceeded) and refused.retry_after is not None:
        context.set_trailing_metadata((("retry-after", str(refused.retry_after)),))
    await context.abort(refused.code, refused.message)


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
