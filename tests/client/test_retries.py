"""What a server could not take is sent again, within a budget and the deadline; what may have had an effect never is."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from reverie_client import AsyncClient, Client, NotFound, Retry, ReverieError, Unauthenticated, Unavailable
from reverie_client.errors import of_status
from reverie_client.failures import asked_pause
from reverie_client.retries import Attempts, Budget

from tests.client import stand_in
from tests.client.stand_in import Refusal, StandIn

QUICK = Retry(initial_seconds=0.001)
FULL = Unavailable(grpc.StatusCode.UNAVAILABLE, "the queue is full")


class Both:
    """Calls through either client, as if it answered at once."""

    def __init__(self, address: str, kind: str):
        self.address, self.kind = address, kind

    def ask(self, sync: Callable[[Client], Any], other: Callable[[AsyncClient], Awaitable[Any]], **options: Any) -> Any:
        options = {"retry": QUICK, **options}
        if self.kind == "threads":
            with Client(self.address, **options) as client:
                return sync(client)

        async def call() -> Any:
            async with AsyncClient(self.address, **options) as client:
                return await other(client)

        return asyncio.run(call())

    def score(self, **options: Any) -> float:
        return self.ask(lambda c: c.score("x"), lambda c: c.score("x"), **options).logprob

    def text(self, **options: Any) -> list[str]:
        async def pieces(client: AsyncClient) -> list[str]:
            return [d.text async for d in client.generate("x")]

        return self.ask(lambda c: [d.text for d in c.generate("x")], pieces, **options)


@pytest.fixture
def server() -> Iterator[tuple[str, StandIn]]:
    with stand_in.running() as found:
        yield found


@pytest.fixture(params=["threads", "asyncio"])
def both(request, server) -> tuple[Both, StandIn]:
    address, servicer = server
    return Both(address, request.param), servicer


def test_a_call_that_was_refused_twice_is_answered_the_third_time(both):
    client, servicer = both
    servicer.refusals = [Refusal(), Refusal()]
    assert client.score() == -1.5
    assert len(servicer.requests) == 3


@pytest.mark.parametrize("is_in_band", [True, False])
def test_a_stream_that_was_refused_before_its_first_message_is_sent_again(both, is_in_band):
    client, servicer = both
    servicer.refusals = [Refusal(is_in_band=is_in_band)]
    assert client.text() == [" good"]
    assert len(servicer.requests) == 2


@pytest.mark.parametrize("is_in_band", [True, False])
def test_a_stream_that_has_delivered_something_is_never_sent_again(both, is_in_band):
    client, servicer = both
    servicer.refusals = [Refusal(after=1, is_in_band=is_in_band)]
    with pytest.raises(Unavailable, match="the queue is full"):
        client.text()
    assert len(servicer.requests) == 1


def test_without_retry_nothing_is_sent_twice(both):
    client, servicer = both
    servicer.refusals = [Refusal()]
    with pytest.raises(Unavailable):
        client.score(retry=None)
    servicer.refusals = [Refusal(is_in_band=True)]
    with pytest.raises(Unavailable):
        client.text(retry=None)
    assert len(servicer.requests) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.INTERNAL, "a fault"),
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "text"),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"),
        Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
        Refusal(message="This protocol is restricted, expecting header 'triton-grpc-protocol-reverie-api-key'"),
    ],
    ids=lambda refusal: refusal.code.name,
)
def test_what_will_not_become_better_is_not_sent_again(both, refusal):
    client, servicer = both
    servicer.refusals = [refusal]
    with pytest.raises(ReverieError) as caught:
        client.score()
    assert isinstance(caught.value, Unauthenticated) or caught.value.code is refusal.code
    assert len(servicer.requests) == 1


def test_administration_is_never_sent_twice(both):
    client, servicer = both
    with pytest.raises(Unavailable, match="later"):
        client.ask(lambda c: c.models(), lambda c: c.models())
    with pytest.raises(Unavailable, match="later"):
        client.ask(lambda c: c.admin.load("style"), lambda c: c.admin.load("style"))
    assert servicer.controls == 2


def test_at_most_a_fifth_more_calls_reach_a_server_that_refuses_them_all(both):
    client, servicer = both
    servicer.always = Refusal()

    def threads(c: Client) -> None:
        for _ in range(50):
            with pytest.raises(Unavailable):
                c.score("x")

    async def tasks(c: AsyncClient) -> None:
        outcomes = await asyncio.gather(*(c.score("x") for _ in range(50)), return_exceptions=True)
        assert {type(o) for o in outcomes} == {Unavailable}

    client.ask(threads, tasks)
    assert 55 <= len(servicer.requests) <= 60


def test_the_pause_that_a_server_asks_for_is_kept(both):
    client, servicer = both
    servicer.refusals = [Refusal(metadata=(("grpc-retry-pushback-ms", "300"),))]
    begun = time.monotonic()
    assert client.score() == -1.5
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("metadata", [("grpc-retry-pushback-ms", "-1"), ("retry-after", "3600")])
def test_a_server_that_wants_nobody_back_in_time_gets_nobody(both, metadata):
    client, servicer = both
    servicer.refusals = [Refusal(metadata=(metadata,))]
    with pytest.raises(Unavailable) as caught:
        client.score(timeout=30)
    assert len(servicer.requests) == 1
    assert caught.value.retry_after == (math.inf if "pushback" in metadata[0] else 3600)


def test_a_server_that_cannot_be_reached_is_told_so_after_the_last_attempt():
    with Client("127.0.0.1:1", retry=QUICK) as client, pytest.raises(Unavailable):
        client.score("x")


def test_a_model_that_is_not_there_is_asked_for_once(both):
    client, servicer = both
    servicer.always = Refusal(message="Request for unknown model: 'score' has no available versions")
    with pytest.raises(Unavailable, match="unknown model"):
        client.score()
    assert len(servicer.requests) == 1


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-2"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"grpc-retry-pushback-ms": "0"}, 0.0),
        ({"grpc-retry-pushback-ms": "1500", "retry-after": "9"}, 1.5),
        ({"grpc-retry-pushback-ms": "-1"}, math.inf),
        ({"grpc-retry-pushback-ms": "soon"}, math.inf),
    ],
)
def test_hints_are_read_as_grpc_and_http_define_them(metadata, seconds):
    assert asked_pause(metadata) == seconds


def test_a_date_to_come_back_at_is_a_number_of_seconds():
    at = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 57 < asked_pause({"retry-after": at}) <= 60


def test_pauses_grow_about_twofold_with_jitter_and_have_a_limit():
    retry = Retry(initial_seconds=0.1, longest_seconds=1.0)
    for attempt, longest in enumerate((0.1, 0.2, 0.4, 0.8, 1.0, 1.0), start=1):
        pauses = {retry.pause(attempt) for _ in range(50)}
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(pauses) > 1


def test_no_pause_reaches_beyond_the_deadline():
    retry = Retry(initial_seconds=10, longest_seconds=10)
    assert Attempts(retry, Budget(retry), seconds=1.0).pause_after(FULL) is None
    assert Attempts(retry, Budget(retry), seconds=60.0).pause_after(FULL) is not None


def test_a_call_is_sent_as_often_as_its_attempts_say():
    retry = Retry(attempts=2, reserve=10)
    call = Attempts(retry, Budget(retry), seconds=60.0)
    assert call.pause_after(FULL) is not None
    assert call.pause_after(FULL) is None


@pytest.mark.parametrize("calls", [1, 10, 15, 16, 100, 1000])
@pytest.mark.parametrize("every", [1, 3])
def test_extra_calls_are_the_reserve_or_a_fifth_whichever_is_more(calls, every):
    budget = Budget(Retry())
    extra = 0
    for number in range(calls):
        budget.on_call()
        if number % every == 0:
            extra += budget.take()
            extra += budget.take()
    assert extra <= max(3, 0.2 * calls)
    assert extra >= min(1, calls)


def test_a_long_calm_does_not_pay_for_a_storm():
    budget = Budget(Retry())
    for _ in range(10_000):
        budget.on_call()
    assert sum(budget.take() for _ in range(100)) == 10


def test_a_budget_of_nothing_repeats_nothing():
    retry = Retry(budget=0.0)
    assert Attempts(retry, Budget(retry), 60.0).pause_after(FULL) is None


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"budget": 1.5}, {"initial_seconds": -1}, {"reserve": 99}])
def test_settings_of_retries_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: .*accepted: "):
        Retry(**wrong)


def test_an_error_that_is_not_unavailable_has_no_pause():
    call = Attempts(QUICK, Budget(QUICK), 60.0)
    assert call.pause_after(of_status(grpc.StatusCode.NOT_FOUND, "x")) is None
    assert isinstance(of_status(grpc.StatusCode.NOT_FOUND, "x"), NotFound)
