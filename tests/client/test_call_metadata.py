"""What is sent with a call is asked for at that call, so that a gateway can call for many."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from reverie_client import AsyncClient, Client, Retry

from tests.client import stand_in
from tests.client.stand_in import Refusal, StandIn


@pytest.fixture
def server() -> Iterator[tuple[str, StandIn]]:
    with stand_in.running() as found:
        yield found


def test_each_call_is_sent_with_what_holds_at_that_moment(server):
    address, servicer = server
    caller = {"reverie-client": "anna"}
    with Client(address, call_metadata=lambda: caller) as client:
        client.score("x")
        caller["reverie-client"] = "bert"
        list(client.generate("x"))
    assert [sent["reverie-client"] for sent in servicer.metadata] == ["anna", "bert"]


def test_so_it_is_with_asyncio_and_a_stream_that_is_sent_again_is_the_same_caller_s(server):
    address, servicer = server
    servicer.refusals = [Refusal()]
    callers = iter([{"reverie-client": "anna"}])

    async def read() -> None:
        async with AsyncClient(
            address, retry=Retry(initial_seconds=0.001), call_metadata=lambda: next(callers)
        ) as client:
            async for _ in client.generate("x"):
                pass

    asyncio.run(read())
    assert [sent["reverie-client"] for sent in servicer.metadata] == ["anna", "anna"]


def test_a_request_has_one_id_in_itself_and_beside_it_however_often_it_is_sent(server):
    address, servicer = server
    servicer.refusals = [Refusal(), Refusal()]
    ids = iter(["of-mine", "two words"])
    with Client(
        address, retry=Retry(initial_seconds=0.001), call_metadata=lambda: {"x-request-id": next(ids)}
    ) as client:
        with client.generate("x") as mine:
            list(mine)
        with client.generate("x") as ours:  # No log could take it.
            list(ours)
    assert mine.request_id == "of-mine"
    assert re.fullmatch("[0-9a-f]{32}", ours.request_id)
    assert [sent["x-request-id"] for sent in servicer.metadata] == [*["of-mine"] * 3, ours.request_id]
