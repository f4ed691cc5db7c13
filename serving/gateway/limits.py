"""Bodies are bounded before they are read, and while they are: each by its kind, and all together."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway.errors import HttpError
from serving.gateway.options import GatewayOptions

_JSON_ONLY = ("/v1/completions", "/v1/chat/completions", "/v1/score")


_DROP_SECONDS = 2.0


class BoundBodies:
    """Middleware: refuses what is compressed, too long, too slow, or too much beside what others have sent."""

    def __init__(self, app: ASGIApp, options: GatewayOptions):
        self._app, self._options = app, options
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._options.most_json if scope["path"] in _JSON_ONLY else self._options.most_upload
        body = _Body(self, receive, most)
        try:
            body.check(Headers(scope=scope))
            await self._app(scope, body.receive, _after_the_body(body, send))
        except HttpError as error:  # Of `check`; what `receive` raises, the application answers.
            await error.response()(scope, receive, _after_the_body(body, send))
        finally:
            self._in_work -= body.held

    def hold(self, size: int) -> None:
        """Count bytes as in work.

        Raises:
            HttpError: there are too many; the caller is to come again.
        """
        if self._in_work + size > self._options.most_in_work:
            raise HttpError(503, "the gateway has as many bytes in work as it may; come again", code="unavailable")
        self._in_work += size

    @property
    def idle_seconds(self) -> float:
        return self._options.idle_seconds


class _Body:
    """One request's.

    Attributes:
        held: bytes that count as in work: what was announced, or more where more came.
    """

    def __init__(self, all_bodies: BoundBodies, receive: Receive, most: int):
        self._all, self._receive, self._most = all_bodies, receive, most
        self._read = 0
        self._is_complete = False
        self.held = 0

    def check(self, sent: Headers) -> None:
        """Look at what the headers announce."""
        encoding = sent.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise HttpError(
                415,
                f"content-encoding: {encoding[:40]!r}; accepted: bodies that are not compressed",
                "content-encoding",
            )
        length = sent.get("content-length", "")
        if length.isascii() and length.isdigit():
            self._hold(int(length) if len(length) < 20 else self._most + 1)

    async def receive(self) -> Message:
        """The next message, of a body that is still within its bounds."""
        if self._is_complete:
            return await self._receive()  # That the caller has left.
        try:
            # Not asyncio's wait_for, which before Python 3.12 can lose a cancellation.
            with anyio.fail_after(self._all.idle_seconds):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(408, f"no more of the body came within {self._all.idle_seconds:g} s") from None
        if message["type"] != "http.request":
            return message
        self._read += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self._hold(self._read)
        return message

    async def drop_rest(self) -> None:
        """Read what is still coming of the body, for a while, and keep nothing of it."""
        with anyio.move_on_after(_DROP_SECONDS):
            while not self._is_complete:
                message = await self._receive()
                self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)

    def _hold(self, size: int) -> None:
        if size > self._most:
            raise HttpError(413, f"a body of {size} bytes or more; accepted: at most {self._most}", code="too_large")
        if size > self.held:
            self._all.hold(size - self.held)
            self.held = size


def _after_the_body(body: _Body, send: Send) -> Send:
    """`send`, which ends an answer only after the body has come, or for a while.

    A connection that is closed while its other end still sends is reset, and the answer is lost on its way: Envoy then answers
    503 in its place.
    """

    async def send_and_drop(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await send({**message, "more_body": True})
            await body.drop_rest()
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    return send_and_drop
