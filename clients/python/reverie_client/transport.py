"""Sends calls and waits for them: one connection for threads. `aio_transport` is its twin for asyncio."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.experimental
from tritonclient.grpc import service_pb2, service_pb2_grpc

from reverie_client import errors, failures, headers
from reverie_client.calls import Calls, Pause, Result, Rpc, Steps
from reverie_client.errors import ReverieError
from reverie_client.messages import to_arrays
from reverie_client.results import Arrays
from reverie_client.retries import Attempts
from reverie_client.settings import Settings

AFTERMATH_S = 10.0
"""How long a call whose caller has given up may go on; see `Connection`."""
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

Message = TypeVar("Message")
Parse = Callable[[Arrays], "list[Message]"]


class Connection:
    """A connection to one server; safe to share between threads.

    When a call's time has passed, the caller gives up and the server's answer is thrown away. Cancelling instead, as
    gRPC does at a deadline, crashes Triton 2.51 if it is answering at that moment
    (https://github.com/triton-inference-server/server/issues/7368); streams are not affected.
    """

    def __init__(self, settings: Settings):
        self.calls = Calls(settings)
        self._settings = settings
        options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1), *settings.channel_options()]
        tls = settings.channel_credentials()
        self._channel = (
            grpc.secure_channel(settings.address, tls, options)
            if tls
            else grpc.insecure_channel(settings.address, options)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # Ours send one request a stream. Called as such, gRPC needs no thread to send it and none to receive.
        self._open_stream = self._channel.unary_stream(
            STREAM_METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._given_up: set[Any] = set()

    def run(self, steps: Steps[Result]) -> Result:
        """Do what the steps of a call ask for.

        Raises:
            ReverieError: the call failed.
        """
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except ReverieError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as ended:
            return ended.value

    def stream(
        self, request: service_pb2.ModelInferRequest, parse: Parse[Message], timeout: float | None
    ) -> Stream[Message]:
        """The messages of a decoupled model; `timeout` is for the whole stream."""

        metadata = self._settings.metadata_of(request)  # Now: the same again, should it be sent again.

        # Never with the header `triton_grpc_error`: errors then crash Triton 2.51 (see docs/decisions.md).
        def start(seconds: float) -> Any:
            return self._open_stream(request, timeout=seconds, metadata=metadata + deadline(seconds))

        return Stream(start, parse, self.calls.attempts(timeout), request.id)

    def close(self) -> None:
        """Close the connection; running streams end, and calls that were given up have 10 s to."""
        for call in tuple(self._given_up):
            call.exception()  # Waits; closing the channel would cancel it.
        self._channel.close()

    def _do(self, step: Rpc | Pause) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        return self._send(step)

    def _send(self, rpc: Rpc) -> Any:
        aftermath = 0.0 if rpc.may_be_cancelled else AFTERMATH_S
        method = getattr(self._stub, rpc.method)
        metadata = self._settings.metadata_of(rpc.request) + rpc.metadata + deadline(rpc.seconds)
        call = method.future(rpc.request, timeout=rpc.seconds + aftermath, metadata=metadata)
        try:
            return call.result(None if rpc.may_be_cancelled else rpc.seconds)
        except grpc.FutureTimeoutError:
            self._given_up.add(call)  # gRPC cancels a call that nobody refers to.
            call.add_done_callback(self._given_up.discard)
            raise no_answer(rpc) from None
        except grpc.FutureCancelledError:
            raise errors.of_status(grpc.StatusCode.CANCELLED, "the connection was closed") from None
        except grpc.RpcError as error:
            raise failures.of_call(error) from None


def deadline(seconds: float) -> tuple[tuple[str, str], ...]:
    """What tells a model how long its caller waits."""
    return ((headers.TIMEOUT, headers.write_timeout(seconds)),)


def no_answer(rpc: Rpc) -> ReverieError:
    """The error of a call whose time has passed."""
    return errors.of_status(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {round(rpc.seconds, 2):g} s")


class Stream(Generic[Message]):
    """Messages of one request, in order; iterate it, or use it as a context manager to stop it early.

    Whoever leaves it, cancels the work on the server: with the block's end, with `cancel`, or by dropping it.

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
        self._cancelled = threading.Event()
        self._call = start(attempts.seconds_left)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        while not self._messages:
            self._messages.extend(self._parse(self._receive()))
        return self._messages.popleft()

    def cancel(self) -> None:
        """Tell the server to stop; iteration then ends. Does nothing to a stream that has ended."""
        if not self._ended:
            self._cancelled.set()
            self._call.cancel()

    def __enter__(self) -> Stream[Message]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _receive(self) -> Arrays:
        """The next response; the request is sent again where it was refused before the first one."""
        while not self._ended:
            try:
                return self._read()
            except ReverieError as error:
                pause = None if self._is_begun else self._attempts.pause_after(error)
                if pause is None:
                    self._ended = True
                    error.request_id = self.request_id
                    raise
            self._start_again(pause)
        raise StopIteration

    def _start_again(self, pause: float) -> None:
        if self._cancelled.wait(pause):
            self._ended = True
            return
        self._call = self._start(self._attempts.seconds_left)
        if self._cancelled.is_set():  # Just now, by another thread.
            self._call.cancel()

    def _read(self) -> Arrays:
        try:
            reply = next(self._call)
        except StopIteration:
            self._ended = True
            raise
        except grpc.RpcError as error:
            if self._cancelled.is_set():
                self._ended = True
                raise StopIteration from None
            raise failures.of_call(error) from None
        if reply.error_message:
            self._drain()
            raise failures.in_band(reply.error_message)
        self._is_begun = True
        return to_arrays(reply.infer_response)

    def _drain(self) -> None:
        """Let the call end by itself: gRPC cancels a call that is dropped, and here Triton is just ending it."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                pass
