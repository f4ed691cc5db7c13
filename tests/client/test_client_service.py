"""The asyncio client on the real server says what the other says."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from reverie_client import AsyncClient, InvalidArgument, NotFound

TEXT = {"max_tokens": 30, "seed": 5, "temperature": 0.7}
DREAM = {"size": 128, "num_octave": 1, "iterations": 3, "max_loss": 0, "features": "compact", "precision": "float32"}


def within(server, job: Callable[[AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with AsyncClient(server.address.grpc, retry=None) as client:
            return await job(client)

    return asyncio.run(run())


def test_texts_and_pictures_are_those_of_the_other_client(server, client, photo):
    async def ask(other: AsyncClient) -> list[Any]:
        async def text() -> str:
            return "".join([d.text async for d in other.generate("This movie", **TEXT)])

        return await asyncio.gather(
            text(), other.stylize(photo, size=96), other.score("This movie was good"), other.styles(), other.health()
        )

    assert within(server, ask) == [
        "".join(d.text for d in client.generate("This movie", **TEXT)),
        client.stylize(photo, size=96),
        client.score("This movie was good"),
        client.styles(),
        client.health(),
    ]


def test_the_steps_of_a_dream_arrive_one_by_one(server, photo):
    async def dream(client: AsyncClient) -> list[int]:
        return [step.step async for step in client.dream(photo, **DREAM) if step.done or step.step]

    assert within(server, dream)[-1] == 3


def test_a_text_that_is_left_leaves_the_server_to_others(server):
    async def leave(client: AsyncClient) -> str:
        async with client.generate("This movie", max_tokens=1000, ignore_eos=True) as stream:
            await stream.__anext__()
        return "".join([d.text async for d in client.generate("This movie", **TEXT)])

    assert within(server, leave)


def test_errors_have_the_class_of_their_status(server, photo):
    async def wrong(client: AsyncClient, call: Callable[[AsyncClient], Any]) -> None:
        await call(client)

    async def text(client: AsyncClient) -> None:
        async for _ in client.generate("x", temperature=9.0):
            pass

    for error, call in (
        (InvalidArgument, lambda c: c.stylize(photo, quality=0)),
        (InvalidArgument, text),
        (NotFound, lambda c: c.infer("nothing", {})),
        (NotFound, lambda c: c.infer("style", {}, label="nobody")),
    ):
        with pytest.raises(error):
            within(server, functools.partial(wrong, call=call))
