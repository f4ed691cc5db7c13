"""Work for a caller who may leave: it is cancelled when he does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from serving.gateway.errors import CLIENT_CLOSED_REQUEST, HttpError

Result = TypeVar("Result")


async def until_hang_up(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; the request's body has been read.

    Raises:
        HttpError: the caller has left, and `work` was cancelled.
    """
    task = asyncio.ensure_future(work)
    hang_up = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({task, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HttpError(CLIENT_CLOSED_REQUEST, "the caller has left", code="cancelled")
        return task.result()
    finally:
        for waiting in (task, hang_up):
            waiting.cancel()
        await asyncio.wait({task, hang_up})


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
