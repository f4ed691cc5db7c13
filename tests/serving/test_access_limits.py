"""What the guard keeps of a caller's limits: calls at the same time, models, sizes."""

from __future__ import annotations

import contextlib
import json

import grpc
import pytest

from serving.door.limits import HEADER, CallerLimits, CallsAtOnce, LimitExceeded


def test_what_the_door_says_is_what_the_guard_reads():
    limits = CallerLimits(("stylize", "score"), streams=8, body_mib=3, admin=True)
    assert CallerLimits.from_metadata({HEADER: limits.header()}) == limits
    assert CallerLimits.from_metadata({HEADER: CallerLimits().header()}) == CallerLimits()
    assert CallerLimits.from_metadata({}) == CallerLimits()
    assert json.loads(CallerLimits().header()) == {}


def test_calls_at_the_same_time_are_counted_for_each_caller_and_given_back_at_their_end():
    calls, two = CallsAtOnce(), CallerLimits(streams=2)
    with contextlib.ExitStack() as running:
        running.enter_context(calls.call("alice", two))
        with calls.call("alice", two), pytest.raises(LimitExceeded) as refused, calls.call("alice", two):
            pass
        assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.retry_after == 1
        assert "2 calls of the key alice are being answered; accepted: 2 at the same time" in refused.value.message
        with calls.call("bob", two):
            running.enter_context(calls.call("alice", two))


def test_a_call_that_fails_gives_its_place_back():
    calls, one = CallsAtOnce(), CallerLimits(streams=1)
    for _ in range(3):
        with pytest.raises(OSError, match="gone"), calls.call("alice", one):
            raise OSError("gone")


def test_any_number_of_calls_without_a_limit():
    calls = CallsAtOnce()
    with contextlib.ExitStack() as running:
        for _ in range(100):
            running.enter_context(calls.call("alice", CallerLimits()))


def test_a_key_for_some_models_opens_no_other():
    limits = CallerLimits(("stylize",))
    limits.check_model("alice", "stylize")
    for other in ("generate", "", "Stylize", "stylize2", "style"):
        with pytest.raises(LimitExceeded, match="accepted: the models stylize") as refused:
            limits.check_model("alice", other)
        assert refused.value.code == grpc.StatusCode.PERMISSION_DENIED
    CallerLimits().check_model("bob", "generate")


def test_a_message_that_is_larger_than_its_callers_may_be_is_refused():
    limits = CallerLimits(body_mib=1)
    limits.check_size("alice", 2**20)
    with pytest.raises(LimitExceeded, match="accepted: at most 1 MiB") as refused:
        limits.check_size("alice", 2**20 + 1)
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    CallerLimits().check_size("alice", 2**40)
