"""Who takes part in the text engine's steps."""

from __future__ import annotations

import pytest

from serving.text.step_shares import StepShares


def run(shares: StepShares, texts: dict[str, int], seconds: float) -> dict[str, float]:
    """Step until so much time has passed, a step of n texts taking 3 + n milliseconds; the time each client took part in."""
    took, now = dict.fromkeys(texts, 0.0), 0.0
    while now < seconds:
        riding = {client: texts[client] for client in shares.riders(texts)}
        step = (3 + sum(riding.values())) / 1000
        shares.charge(riding, step)
        now += step
        for client, count in riding.items():
            took[client] += step * max(count, 4) / sum(max(c, 4) for c in riding.values())
    return took


@pytest.mark.parametrize(
    "texts", [{"a": 16, "b": 1}, {"a": 16, "b": 8, "c": 1}, {"a": 10, **dict.fromkeys("bcdef", 1)}]
)
def test_clients_get_the_same_time_however_many_texts_they_have(texts):
    took = run(StepShares(), texts, 10)
    assert max(took.values()) < 1.02 * min(took.values())


@pytest.mark.parametrize("texts", [{"a": 4, "b": 1}, {"a": 16, "b": 16}, {"a": 1}, {"a": 3, "b": 4, "c": 2}])
def test_clients_with_a_few_texts_or_as_many_as_the_others_take_every_step_together(texts):
    shares = StepShares()
    for _ in range(100):
        assert shares.riders(texts) == set(texts)
        shares.charge(texts, 0.01)


def test_a_client_that_was_away_has_saved_nothing_up():
    shares = StepShares()
    run(shares, {"a": 16, "late": 1}, 1)
    run(shares, {"a": 16, "b": 1}, 10)
    took = run(shares, {"a": 16, "late": 1}, 1)
    assert took["a"] == pytest.approx(took["late"], rel=0.1)


def test_a_client_that_comes_back_does_not_wait_for_those_that_came_meanwhile():
    shares = StepShares()
    run(shares, {"a": 16, "b": 1}, 10)
    run(shares, {"new": 1, "newer": 16}, 1)
    took = run(shares, {"a": 1, "new": 1}, 1)
    assert took["a"] == pytest.approx(took["new"], rel=0.1)


def test_leaving_for_a_moment_does_not_make_up_for_what_was_taken():
    shares = StepShares()
    shares.charge(dict.fromkeys(shares.riders({"a": 1, "b": 1}), 1), 0.0)
    shares.charge({"a": 16}, 1.0)
    assert shares.riders({"b": 1}) == {"b"}
    assert shares.riders({"a": 16, "b": 1}) == {"b"}


def test_what_is_remembered_of_clients_that_have_gone_is_bounded():
    shares = StepShares()
    for number in range(1000):
        run(shares, {"a": 16, f"client {number}": 1}, 0.05)
    assert shares.remembered < 10
