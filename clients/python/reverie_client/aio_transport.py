"""Sends calls and waits for them with asyncio: the twin of `transport`, which says why things are as they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from reverie_client import errors, failures
from reverie_client.calls import Calls, Pause, Result, Rpc, Steps
from reverie_client.errors import ReverieError
from reverie_client.messages import to_arrays
from reverie_client.results import Arrays
from reverie_client.retries import Attempts
from reverie_client.settings import Settings
from reverie_client.transport import AFTERMATH_S, STREAM_METHOD, Message, Parse, deadline, no_answer


class AsyncConnection:
    """A connection to one server, for the event loop in which it is first used."""

    def __init__(self, settings: Settings):
        self.calls = Calls(settings)
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    async def run(self, steps: Steps[Result]) -> Result:
        """Do what the steps of a call ask for.

        Raises:
            ReverieError: the call failed.
        """
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except ReverieError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as ended:
            return ended.value

    def stream(
        self, request: service_pb2.ModelInferRequest, parse: Parse[Message], timeout: float | None
    ) -> AsyncStream[Message]:
        """The messages of a decoupled model; `timeout` is for the whole stream."""
        open_stream = self._connected().unary_stream(
            STREAM_METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

        metadata = self._settings.metadata_of(request)

        def start(seconds: float) -> Any:
            return open_stream(request, timeout=seconds, metadata=metadata + deadline(seconds))

        return AsyncStream(start, parse, self.calls.attempts(timeout), request.id)

    async def close(self) -> None:
        """Close the connection; running streams end, and calls that were given up have 10 s to."""
        if self._waiting:
            await asyncio.wait(self._waiting)
        if self._channel is not None:
            await self._channel.close()

    def _connected(self) -> grpc.aio.Channel:
        """The channel; made late, because it belongs to the loop in which it is made."""
        if self._channel is None:
            address, options = self._settings.address, self._settings.channel_options()
            tls = self._settings.channel_credentials()
            self._channel = (
                grpc.aio.secure_channel(address, tls, options) if tls else grpc.aio.insecure_channel(address, options)
            )
        return self._channel

    async def _do(self, step: Rpc | Pause) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._send(step)

    async def _send(self, rpc: Rpc) -> Any:
        aftermath = 0.0 if rpc.may_be_cancelled else AFTERMATH_S
        method = getattr(service_pb2_grpc.GRPCInferenceServiceStub(self._connected()), rpc.method)
        metadata = self._settings.metadata_of(rpc.request) + rpc.metadata + deadline(rpc.seconds)
        answer = asyncio.ensure_future(_answer(method(rpc.request, timeout=rpc.seconds + aftermath, metadata=metadata)))
        self._waiting.add(answer)
        answer.add_done_callback(self._forget)
        # Neither a deadline nor a cancelled task cancels what is waited for so.
        await asyncio.wait({answer}, timeout=None if rpc.may_be_cancelled else rpc.seconds)
        if not answer.done():
            raise no_answer(rpc)
        if answer.cancelled():
            raise errors.of_status(grpc.StatusCode.CANCELLED, "the connection was closed")
        try:
            return answer.result()
        except grpc.RpcError as error:
            raise failures.of_call(error) from None

    def _forget(self, answer: asyncio.Future[Any]) -> None:
        self._waiting.discard(answer)
        if not answer.cancelled():
            answer.exception()  # Else asyncio says that nobody looked at it.


async def _answer(call: Any) -> Any:
    return await call


class AsyncStream(Generic[Message]):
    """Messages of one request, in order; iterate it, or use it as a context manager to stop it early.

    Whoever leaves it, cancels the work on the server: with the block's end, with `cancel`, by dropping it, or when the
    task that waits for a message is cancelled.

    Args:
        start: sends the request, given the seconds until the deadline; called again while nothing has been received
            and `attempts` allows it.
        parse: one response's arrays as messages.
        request_id: of the request, however often it is sent.

    Attributes:
        request_id: by which the server's logs know the request.
    """

    def __init__(self, start: Callable[[float], Any], parse: Parse[Message], attempts: Attempts, request_id: str = ""):
        self._start = start
        self._parse = parse
        self._attempts = attempts
        self._messages: deque[Message] = deque()
        self.request_id = request_id
        self._is_begun = False
        self._ended = False
        self._cancelled = False
        self._call = start(attempts.seconds_left)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            self._messages.extend(self._parse(await self._receive()))
        return self._messages.popleft()

    def cancel(self) -> None:
        """Tell the server to stop; iteration then ends. Does nothing to a stream that has ended."""
        if not self._ended:
            self._cancelled = True
            self._call.cancel()

    async def __aenter__(self) -> AsyncStream[Message]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Not left to gRPC, which keeps its call until somebody reads on. Where the loop has ended, so have its calls.
        with contextlib.suppress(RuntimeError):
            if hasattr(self, "_call"):
                self.cancel()

    async def _receive(self) -> Arrays:
        """The next response; the request is sent again where it was refused before the first one."""
        while not self._ended:
            try:
                return await self._read()
            except ReverieError as error:
                pause = None if self._is_begun else self._attempts.pause_after(error)
                if pause is None:
                    self._ended = True
                    error.request_id = self.request_id
                    raise
            await self._start_again(pause)
        raise StopAsyncIteration

    async def _start_again(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if self._cancelled:
            self._ended = True
        else:
            self._call = self._start(self._attempts.seconds_left)

    async def _read(self) -> Arrays:
        try:
            reply = await self._call.read()
        except grpc.RpcError as error:
            raise failures.of_call(error) from None
        except asyncio.CancelledError:
            # gRPC says so of a stream that was cancelled, and asyncio of the task that waits.
            if not self._cancelled:
                self.cancel()
                raise
            reply = grpc.aio.EOF
        if reply is grpc.aio.EOF:
            self._ended = True
            raise StopAsyncIteration
        if reply.error_message:
            await self._drain()
            raise failures.in_band(reply.error_message)
        self._is_begun = True
        return to_arrays(reply.infer_response)

    async def _drain(self) -> None:
        """Let the call end by itself: gRPC cancels a call that is dropped, and here Triton is just ending it."""
        with contextlib.suppress(grpc.RpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass
