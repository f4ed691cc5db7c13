"""`POST /v1/completions`: OpenAI's completions, whole or as events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from reverie_client import AsyncClient, ReverieError, TextDelta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from language.tokenizer import Tokenizer
from serving.gateway import events
from serving.gateway.bodies import read_json
from serving.gateway.callers import caller_limits
from serving.gateway.choices import Choices, ordered
from serving.gateway.completion_request import CompletionRequest
from serving.gateway.documentation import json_body
from serving.gateway.errors import HttpError
from serving.gateway.hang_up import until_hang_up
from serving.gateway.tokens import StableTokenizer

router = APIRouter()

AT_ONCE = 8
"""Prompts of one request that are worked on at the same time; a server takes 18 requests of a client for each process."""
_NAMES = {"text_input": "prompt"}
_NO_CHAT = (
    "the language model continues texts and was never taught to converse, so there are no chat completions; "
    "POST /v1/completions with a prompt"
)


@router.post("/v1/completions", openapi_extra=json_body(CompletionRequest), tags=["OpenAI"])
async def complete(request: Request) -> Response:
    """Continue a prompt, or several, with the model `generate`."""
    asked = CompletionRequest.read(await read_json(request))
    asked.check_model()
    completion = Completion(request.app.state.client, request.app.state.tokenizer, asked)
    await asyncio.to_thread(completion.read_prompts)
    if asked.stream:
        return await events.event_response(request, completion.events())
    return JSONResponse(await until_hang_up(request, completion.whole()))


@router.post("/v1/chat/completions", include_in_schema=False)
async def chat() -> Response:
    """Say why not."""
    raise HttpError(404, _NO_CHAT, "model", "model_not_found")


class Completion:
    """One request on its way."""

    def __init__(self, client: AsyncClient, tokenizer: StableTokenizer, asked: CompletionRequest):
        self._client, self._tokenizer, self._asked = client, tokenizer, asked
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        self._prompts: list[str] = []
        self._prompt_tokens: list[int] | None = None

    def read_prompts(self) -> None:
        """Turn token ids into the texts that they stand for; first of all.

        Raises:
            HttpError: there is no such token.
        """
        self._prompts = [p if isinstance(p, str) else self._text_of(p) for p in self._asked.prompt]
        self._choices = Choices(self._asked, self._prompts)

    async def whole(self) -> dict[str, Any]:
        """The answer, at once."""
        places = asyncio.Semaphore(_at_once())
        tasks = [asyncio.ensure_future(self._continue(index, places)) for index in range(len(self._prompts))]
        try:
            parts = await asyncio.gather(*tasks)
        except ReverieError as error:
            raise HttpError.of_call(error).renamed(_NAMES) from None
        finally:
            await _end(tasks)
        await self._count_prompts()
        choices = ordered(choice for part in parts for choice in part)
        return self._message(choices) | {"usage": self._choices.usage(self._prompt_tokens)}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer, piece by piece."""
        options = self._asked.stream_options
        counts = options.include_usage or options.continuous_usage_stats
        if counts:
            await self._count_prompts()
        is_begun = False
        try:
            async with aclosing(self._deltas()) as deltas:
                async for index, delta in deltas:
                    message = self._message([self._choices.add(index, delta)])
                    if counts:
                        is_continuous = options.continuous_usage_stats
                        message["usage"] = self._choices.usage(self._prompt_tokens) if is_continuous else None
                    is_begun = True
                    yield events.event(message)
        except ReverieError as error:
            failure = HttpError.of_call(error).renamed(_NAMES)
            if not is_begun:
                raise failure from None
            yield events.event(failure.body(), "error")
            return
        if options.include_usage:
            yield events.event(self._message([]) | {"usage": self._choices.usage(self._prompt_tokens)})
        yield events.DONE

    def _message(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "model": self._asked.model, "choices": choices}

    async def _continue(self, index: int, places: asyncio.Semaphore) -> list[dict[str, Any]]:
        async with places, self._ask(index, stream=False) as stream:
            return [self._choices.add(index, delta) async for delta in stream]

    async def _deltas(self) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """Pieces of all prompts' continuations, as they come."""
        if len(self._prompts) == 1:
            async with self._ask(0, stream=True) as stream:
                async for delta in stream:
                    yield 0, delta
            return
        pieces: asyncio.Queue[tuple[int, TextDelta] | None] = asyncio.Queue()
        places = asyncio.Semaphore(_at_once())
        tasks = [asyncio.ensure_future(self._feed(i, pieces, places)) for i in range(len(self._prompts))]
        all_fed = asyncio.ensure_future(_put_end(tasks, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await all_fed
        finally:
            await _end([*tasks, all_fed])

    async def _feed(self, index: int, pieces: asyncio.Queue[Any], places: asyncio.Semaphore) -> None:
        async with places, self._ask(index, stream=True) as stream:
            async for delta in stream:
                pieces.put_nowait((index, delta))

    def _ask(self, index: int, stream: bool) -> Any:
        """The stream of one prompt's continuations. Tokens are counted by their log-probabilities, where nobody reports."""
        asked = self._asked
        reports = asked.logprobs is not None
        counts = not stream or asked.stream_options.include_usage or asked.stream_options.continuous_usage_stats
        return self._client.generate(
            self._prompts[index],
            stream=stream,
            echo=asked.echo and reports,
            logprobs=asked.logprobs if reports else 0 if counts else None,
            **asked.of_generate(),
        )

    async def _count_prompts(self) -> None:
        if (tokenizer := self._tokenizer.find()) is not None:
            self._prompt_tokens = [await asyncio.to_thread(self._count, tokenizer, text) for text in self._prompts]

    def _count(self, tokenizer: Tokenizer, text: str) -> int:
        tokens = len(tokenizer.encode(text))
        return tokens if self._asked.truncate is None else min(tokens, self._asked.truncate)

    def _text_of(self, ids: list[int]) -> str:
        tokenizer = self._tokenizer.find()
        if tokenizer is None:
            raise HttpError.invalid("prompt: token ids, and this gateway has no tokenizer; accepted: texts", "prompt")
        if wrong := [token for token in ids if not 0 <= token < len(tokenizer)]:
            raise HttpError.invalid(
                f"prompt: token {str(wrong[0])[:40]}; accepted: token ids from 0 to {len(tokenizer) - 1}", "prompt"
            )
        return tokenizer.decode(ids)


def _at_once() -> int:
    """Prompts that are worked on at the same time: as many as the caller may have calls."""
    return min(AT_ONCE, caller_limits().streams or AT_ONCE)


async def _put_end(tasks: Sequence[asyncio.Future[None]], pieces: asyncio.Queue[Any]) -> None:
    """Say that nothing will follow: all have ended, or one has failed, which is raised."""
    try:
        await asyncio.gather(*tasks)
    finally:
        pieces.put_nowait(None)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
