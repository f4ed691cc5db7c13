"""What the guard keeps of a caller's limits: calls at the same time, models, sizes."""

from __future__ import annotations

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
    end = calls.begin("alice", two)
    calls.begin("alice", two)
    with pytest.raises(LimitExceeded) as refused:
        calls.begin("alice", two)
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.retry_after == 1
    assert "2 calls of the key alice are being answered; accepted: 2 at the same time" in refused.value.message
    calls.begin("bob", two)
    end()
    calls.begin("alice", two)


def test_any_number_of_calls_without_a_limit():
    calls = CallsAtOnce()
    for end in [calls.begin("alice", CallerLimits()) for _ in range(100)]:
        end()
    calls.begin("alice", CallerLimits(streams=1))


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
