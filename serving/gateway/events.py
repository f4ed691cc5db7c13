"""Server-sent events: how they are written, and answers that consist of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from reverie_client import ReverieError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serving.gateway.errors import HttpError
from serving.gateway.hang_up import until_hang_up

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
"""How OpenAI's streams of text end."""
_PING = b": working\n\n"
_PING_SECONDS = 15.0
"""Longer silence makes proxies close a connection."""
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event with JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def event_response(request: Request, events: AsyncGenerator[bytes, None]) -> Response:
    """An answer of `events`. It begins with the first of them, so what is refused has a status of its own.

    What fails later is an event `error` with OpenAI's JSON, the last one. A caller who leaves ends `events`.
    """
    try:
        first = await until_hang_up(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return StreamingResponse(_all(first, events), media_type=MEDIA_TYPE, headers=_HEADERS)


async def _all(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    yield first
    try:
        async for written in _with_pings(events):
            yield written
    except ReverieError as error:
        yield event(HttpError.of_call(error).body(), "error")


async def _with_pings(events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    coming = asyncio.ensure_future(anext(events, b""))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=_PING_SECONDS)
            if not done:
                yield _PING
                continue
            if not (written := coming.result()):
                return
            yield written
            coming = asyncio.ensure_future(anext(events, b""))
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await events.aclose()
