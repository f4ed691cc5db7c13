"""`reverie batch`: a file of requests in OpenAI's batch format, answered into another; may be interrupted and run again.

Requests go through the gateway's own application in this process, so they mean what they mean over HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from reverie import outputs
from reverie.errors import ToolkitError
from serving.gateway import local
from serving.gateway.app import connect, create_app
from serving.gateway.options import GatewayOptions

_BUSY = (429, 503)
_TRIES = 8
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class BatchError(ToolkitError):
    """A file of requests that cannot be read; the message names the line."""


class BatchRequest(BaseModel):
    """A line of the file.

    Attributes:
        custom_id: the caller's name for it, of which there is one; its answer has it too.
        url: a path that takes JSON, as "/v1/completions" does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    custom_id: str = Field(min_length=1, max_length=512)
    method: str = Field(pattern="^POST$")
    url: str = Field(pattern="^/v1/[a-z/]+$")
    body: dict[str, Any]


@dataclass(frozen=True)
class BatchResult:
    """How a batch went.

    Attributes:
        skipped: requests whose answers were there.
        failed: requests whose answer is an error.
    """

    answered: int = 0
    skipped: int = 0
    failed: int = 0


def read_requests(source: Path) -> list[BatchRequest]:
    """The requests of a file, one a line; empty lines are passed over.

    Raises:
        BatchError: a line is none, or two have the same `custom_id`.
    """
    found: dict[str, BatchRequest] = {}
    for number, line in _lines(source):
        try:
            request = BatchRequest.model_validate(from_json(line, allow_inf_nan=False))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "line"
            raise BatchError(
                f"{source}:{number}: {name}: {first['msg']}; accepted: custom_id, method POST, url, body"
            ) from None
        except ValueError as error:
            raise BatchError(f"{source}:{number}: not JSON: {error}") from None
        if request.custom_id in found:
            raise BatchError(f"{source}:{number}: custom_id {request.custom_id!r} is there twice; accepted: once")
        found[request.custom_id] = request
    return list(found.values())


def answered_ids(target: Path) -> set[str]:
    """Which requests have an answer in `target` already that is no error of the moment.

    Others are taken out of the file, and so is a last line that was not written to its end.

    Raises:
        BatchError: the file holds something else than answers; it is left as it is.
    """
    if not target.exists():
        return set()
    kept: dict[str, bytes] = {}
    text = target.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            answer = from_json(line)
            custom_id, status = answer["custom_id"], answer["response"]["status_code"]
        except (ValueError, KeyError, TypeError):
            raise BatchError(f"{target}:{number}: not an answer of a batch; give a file of its own") from None
        if status < 500 and status not in _BUSY:
            kept[custom_id] = line
    if (rest := b"".join(line + b"\n" for line in kept.values())) != text:
        outputs.write(target, rest)  # At once: what was answered is never lost.
    return set(kept)


async def run_batch(
    requests: list[BatchRequest],
    target: Path,
    address: str,
    at_once: int = 8,
    options: GatewayOptions | None = None,
    on_answer: Callable[[int], None] = lambda done: None,
) -> BatchResult:
    """Answer what has no answer in `target` yet; each is a line there as soon as it has come.

    Args:
        address: of the server's gRPC.
        at_once: requests under way at the same time.
        on_answer: told how many have an answer now.

    Raises:
        BatchError: `target` holds something else.
    """
    options = options or GatewayOptions()
    there = answered_ids(target)
    due = [request for request in requests if request.custom_id not in there]
    skipped = len(requests) - len(due)
    on_answer(skipped)
    client = connect(address, options)
    failed, done = 0, 0
    try:
        with target.open("ab") as file:
            async for answer in _answers(create_app(client, options), due, at_once):
                file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
                file.flush()
                done += 1
                failed += answer["response"]["status_code"] >= 400
                on_answer(skipped + done)
    finally:
        await client.close()
    return BatchResult(done, skipped, failed)


async def _answers(app: FastAPI, requests: list[BatchRequest], at_once: int) -> AsyncIterator[dict[str, Any]]:
    """Answers as they come."""
    waiting = iter(requests)
    running: set[asyncio.Future[dict[str, Any]]] = set()
    try:
        while True:
            for request in itertools.islice(waiting, at_once - len(running)):
                running.add(asyncio.ensure_future(_answer(app, request)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for answer in done:
                yield answer.result()
    finally:
        for answer in running:
            answer.cancel()


async def _answer(app: FastAPI, request: BatchRequest) -> dict[str, Any]:
    """One line of OpenAI's: an error of HTTP is an answer too. A server that is full is asked again; nothing is streamed."""
    body = json.dumps({**request.body, "stream": False} if "stream" in request.body else request.body).encode()
    pause = _FIRST_PAUSE_S
    for _ in range(_TRIES):
        answer = await local.call(app, request.method, request.url, body, {"content-type": "application/json"})
        if answer.status not in _BUSY:
            break
        await asyncio.sleep(max(pause, float(answer.headers.get("retry-after", 0))))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": request.custom_id,
        "response": {
            "status_code": answer.status,
            "request_id": answer.headers["x-request-id"],
            "body": json.loads(answer.body),
        },
        "error": None,
    }


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line
