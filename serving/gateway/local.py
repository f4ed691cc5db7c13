"""Requests to the gateway's application in this process, without a port: for work that is not sent over a network."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message


@dataclass(frozen=True)
class LocalAnswer:
    """An answer of the application; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def call(
    app: ASGIApp, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> LocalAnswer:
    """Send one request and wait for all of its answer.

    Args:
        path: with its query, if any.
    """
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    answer: list[Message] = []
    requests = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for message in requests:
            return message
        return await asyncio.Future()  # Nobody hangs up here.

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, send)
    head = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer[0]["headers"]}
    return LocalAnswer(answer[0]["status"], head, b"".join(message.get("body", b"") for message in answer[1:]))
