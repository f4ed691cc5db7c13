"""Whoever leaves a stream, cancels the work on the server; and what a caller gives up does not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator

import grpc
import pytest
from reverie_client import AsyncClient, Cancelled, Client, DeadlineExceeded, Health, PictureStep, TextDelta

from tests.client import stand_in
from tests.client.stand_in import StandIn

SECONDS = 10
"""Within which the server hears of what happens at once."""


@pytest.fixture
def server() -> Iterator[tuple[str, StandIn]]:
    with stand_in.running() as found:
        yield found


@pytest.fixture
def endless(server) -> tuple[str, StandIn]:
    server[1].is_endless = True
    return server


async def heard(servicer: StandIn) -> bool:
    return await asyncio.get_running_loop().run_in_executor(None, servicer.left.wait, SECONDS)


def test_leaving_the_block_of_a_stream_cancels_it(endless):
    address, servicer = endless
    with Client(address) as client:
        with client.generate("x") as stream:
            assert next(stream) == TextDelta(" good", "")
        assert servicer.left.wait(SECONDS)
        assert list(stream) == []


def test_leaving_the_block_of_an_asyncio_stream_cancels_it(endless):
    address, servicer = endless

    async def leave() -> None:
        async with AsyncClient(address) as client:
            async with client.generate("x") as stream:
                assert await stream.__anext__() == TextDelta(" good", "")
            assert await heard(servicer)
            assert [delta async for delta in stream] == []

    asyncio.run(leave())


def test_leaving_the_loop_over_a_stream_cancels_it(endless):
    address, servicer = endless
    with Client(address) as client:
        for _ in client.dream(b"picture"):
            break
        gc.collect()
        assert servicer.left.wait(SECONDS)


def test_leaving_the_loop_over_an_asyncio_stream_cancels_it(endless):
    address, servicer = endless

    async def leave() -> None:
        async with AsyncClient(address) as client:
            async for step in client.dream(b"picture"):
                assert step.loss_parts == {"content": 0.5}
                break
            gc.collect()
            assert await heard(servicer)

    asyncio.run(leave())


def test_an_error_in_the_loop_cancels_the_stream_and_is_the_caller_s_own(endless):
    address, servicer = endless
    with Client(address) as client:
        with pytest.raises(KeyError), client.transfer(b"picture", b"style") as stream:
            for _ in stream:
                raise KeyError
        assert servicer.left.wait(SECONDS)


def test_cancelling_a_task_cancels_the_stream_that_it_reads(endless):
    address, servicer = endless

    async def cancel() -> None:
        async with AsyncClient(address) as client:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in client.generate("x"):
                    begun.set()

            task = asyncio.ensure_future(read())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await heard(servicer)

    asyncio.run(cancel())


def test_a_stream_ends_at_its_deadline(endless):
    address, _ = endless
    with Client(address) as client, pytest.raises(DeadlineExceeded):
        list(client.generate("x", timeout=0.2))

    async def read() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(DeadlineExceeded):
                _ = [delta async for delta in client.generate("x", timeout=0.2)]

    asyncio.run(read())


def test_asyncio_calls_are_answered_side_by_side_as_the_others_are(server):
    address, _ = server

    async def ask() -> list[object]:
        async with AsyncClient(address) as client:
            return await asyncio.gather(
                client.stylize(b"photo"), client.score("x"), client.styles(), client.health(), client.ready()
            )

    with Client(address) as client:
        expected = [client.stylize(b"photo"), client.score("x"), client.styles(), client.health(), client.ready()]
    assert asyncio.run(ask()) == expected
    assert expected[0] == b"painting"
    assert expected[2:] == [["starry_night", "wave"], Health(live=True, ready=True), True]


def test_the_steps_of_an_asyncio_dream_are_those_of_the_other(server):
    address, _ = server

    async def read() -> list[PictureStep]:
        async with AsyncClient(address) as client:
            return [step async for step in client.transfer(b"photo", [b"a", b"b"], style_mask=[b"c", b"d"])]

    with Client(address) as client:
        assert asyncio.run(read()) == list(client.transfer(b"photo", [b"a", b"b"], style_mask=[b"c", b"d"]))


def test_an_asyncio_caller_who_gives_up_does_not_cancel_the_call_on_the_server(server):
    # Triton 2.51 can crash if it answers at the moment at which a call that answers once is cancelled.
    address, servicer = server
    servicer.may_answer.clear()

    async def give_up() -> None:
        client = AsyncClient(address, retry=None)
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.1 s"):
            await client.score("x", timeout=0.1)
        task = asyncio.ensure_future(client.score("y", timeout=5))
        while len(servicer.requests) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        closing = asyncio.ensure_future(client.close())
        servicer.may_answer.set()
        await closing

    asyncio.run(give_up())
    assert servicer.answered == 2


def test_a_client_may_be_made_before_the_event_loop_runs(server):
    client = AsyncClient(server[0])

    async def ask() -> float:
        async with client:
            return (await client.score("x")).logprob

    assert asyncio.run(ask()) == -1.5


def test_an_unreachable_server_is_neither_live_nor_ready():
    with Client("127.0.0.1:1") as client:
        assert client.health() == Health(live=False, ready=False)


def test_a_stream_that_the_server_cancels_says_so(server):
    address, servicer = server
    servicer.refusals = [stand_in.Refusal(grpc.StatusCode.CANCELLED, "the server ends", is_in_band=True)]
    with Client(address) as client, pytest.raises(Cancelled, match="the server ends"):
        list(client.generate("x"))


def test_stopping_a_stream_that_waits_to_be_sent_again_ends_it(server):
    address, servicer = server
    servicer.always = stand_in.Refusal(metadata=(("grpc-retry-pushback-ms", "60000"),))

    async def stop() -> None:
        async with AsyncClient(address, timeout=100) as client:
            reading = asyncio.ensure_future(client.generate("x").__anext__())
            while not servicer.requests:
                await asyncio.sleep(0.005)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    asyncio.run(asyncio.wait_for(stop(), SECONDS))
    assert len(servicer.requests) == 1


def test_a_method_that_is_wrapped_still_sends_what_is_given(server, monkeypatch):
    address, servicer = server
    own = Client.stylize
    monkeypatch.setattr(Client, "stylize", lambda *given, **named: own(*given, **named))
    with Client(address) as client:
        client.stylize(b"photo", quality=7)
    assert servicer.requests[0].parameters["quality"].int64_param == 7


def test_a_stream_that_outlives_its_event_loop_is_dropped_in_silence(endless, recwarn, capfd):
    address, _ = endless

    async def leave() -> object:
        client = AsyncClient(address)
        stream = client.generate("x")
        await stream.__anext__()
        return stream

    kept = [asyncio.run(leave())]
    kept.clear()
    gc.collect()
    assert "Exception ignored" not in capfd.readouterr().err
