"""Check the requests of a stream that Envoy carries to Triton itself: Envoy asks here, by its filter `ext_proc`.

Envoy shows a stream's headers, each piece of its body before that goes on, and the trailers of the answer; the answers
themselves pass from Triton to the caller unseen. If the guard ends or fails meanwhile, Envoy ends the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import grpc

from serving.door.guard.admission import STREAM, Introduction, Keys
from serving.door.guard.gate import Gate
from serving.door.guard.messages import Refused, check
from serving.door.guard.processor_messages import ProcessingRequest, ProcessingResponse
from serving.door.guard.redaction import redacted
from serving.door.limits import CallsAtOnce, LimitExceeded

_NO_MESSAGE = b"\0\0\0\0\1\xff"
"""One that no parser takes. To Triton it is the end of what the caller sends: what was asked before is still answered."""
_OF_HTTP = ("content-type", "te", "user-agent", "grpc-timeout", "grpc-accept-encoding", "host")
"""The headers of a caller that go on to Triton, besides those that begin with a colon."""
_OVERWRITE = 2
_OK = 200


@dataclass
class Processor:
    """Answers Envoy's questions about streams.

    Attributes:
        keys: what opens what.
        at_once: counts the calls of each caller.
        message_bytes: the largest message.
    """

    keys: Keys
    at_once: CallsAtOnce
    message_bytes: int

    def handler(self) -> grpc.RpcMethodHandler:
        """gRPC's, of `PROCESS`."""
        return grpc.stream_stream_rpc_method_handler(
            self._process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
        )

    async def _process(self, questions: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
        """One stream. It must not come back before `questions` end: then Envoy would go on without asking."""
        stream = _Stream(self)
        try:
            async for question in questions:
                await context.write(stream.answer(question))
        finally:
            stream.end()


@dataclass
class _Stream:
    """A stream, from its headers to its trailers."""

    processor: Processor
    end: Callable[[], None] = field(default=lambda: None, init=False)
    _gate: Gate | None = field(default=None, init=False)
    _refused: Refused | None = field(default=None, init=False)

    def answer(self, question: Any) -> Any:
        """Envoy waits for it."""
        kind = next(iter(question.ListFields()))[0].name
        try:
            return getattr(self, kind)(getattr(question, kind))
        except Refused as refused:
            return self._refusal(refused)

    def request_headers(self, asked: Any) -> Any:
        given = {header.key: _text(header) for header in asked.headers.headers}
        caller = Introduction.of(given)
        metadata = self.processor.keys.let_in(STREAM, caller)
        self.end = self.processor.at_once.begin(caller.name, caller.limits)

        def checked(message: bytes) -> None:
            check(message)
            caller.check(STREAM, message)

        self._gate = Gate(checked, self.processor.message_bytes)
        answer = ProcessingResponse()
        changes = answer.request_headers.response.header_mutation
        _set(changes, *metadata)
        kept = {*_OF_HTTP, *(name for name, _ in metadata)}
        changes.remove_headers.extend(name for name in given if name not in kept and not name.startswith(":"))
        return answer

    def request_body(self, asked: Any) -> Any:
        assert self._gate is not None
        passed = b"" if self._refused else self._gate.take(asked.body)
        return _body(asked.body, passed)

    def response_trailers(self, asked: Any) -> Any:
        answer = ProcessingResponse()
        answer.response_trailers.SetInParent()
        changes = answer.response_trailers.header_mutation
        if self._refused:
            _set(changes, *_status(self._refused))
            return answer
        for header in asked.trailers.headers:
            if header.key == "grpc-message" and (told := redacted(_text(header))) != _text(header):
                _set(changes, ("grpc-message", told))
        return answer

    def _refusal(self, refused: Refused) -> Any:
        """At once where Triton has nothing to answer yet, and else as the status after its last answer.

        Once an answer has begun, Envoy can but tear the stream off: that remains where a large message has gone on in part.
        """
        answer = ProcessingResponse()
        if self._gate is not None and self._gate.has_passed and not self._gate.is_torn:
            self._refused = refused
            return _body(b"", _NO_MESSAGE)
        at_once = answer.immediate_response
        at_once.status.code, at_once.grpc_status.status = _OK, refused.code.value[0]
        at_once.body, at_once.details = refused.message.encode(), "guard"
        _set(at_once.headers, *_retry_after(refused))
        return answer


def _body(came: bytes, passed: bytes) -> Any:
    answer = ProcessingResponse()
    answer.request_body.response.SetInParent()
    if passed != came:
        change = answer.request_body.response.body_mutation
        if passed:
            change.body = passed
        else:
            change.clear_body = True
    return answer


def _set(changes: Any, *pairs: tuple[str, str]) -> None:
    for name, value in pairs:
        option = changes.set_headers.add(append_action=_OVERWRITE)
        option.header.key, option.header.raw_value = name, value.encode()


def _status(refused: Refused) -> tuple[tuple[str, str], ...]:
    """A status as trailers."""
    message = quote(refused.message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return (("grpc-status", str(refused.code.value[0])), ("grpc-message", message), *_retry_after(refused))


def _retry_after(refused: Refused) -> tuple[tuple[str, str], ...]:
    after = refused.retry_after if isinstance(refused, LimitExceeded) else None
    return () if after is None else (("retry-after", str(after)),)


def _text(header: Any) -> str:
    return header.raw_value.decode("latin-1") if header.raw_value else header.value
