"""Verdicts on two servers whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.bootstrap import Round, compare


def rounds(slower_by: float, number: int = 8, mood_ms: float = 0.0, seed: int = 0) -> list[Round]:
    """Rounds of 40 times around 100 ms; B's are multiplied by `slower_by`, and each round has a mood of its own."""
    rng = np.random.default_rng(seed)
    moods = rng.normal(0, mood_ms, number)
    return [(rng.gamma(20, 5, 40) + m, rng.gamma(20, 5 * slower_by, 40) + m) for m in moods]


@pytest.mark.parametrize("rank", [50, 95])
def test_a_slower_b_is_shown_and_the_interval_holds_the_difference(rank: float):
    found = compare(rounds(1.3), rank)
    assert found is not None and found.verdict == "B is slower"
    assert found.low_ms <= found.b_ms - found.a_ms <= found.high_ms
    assert found.low_ms > 0


def test_a_faster_b_is_shown():
    found = compare(rounds(0.7), 50)
    assert found is not None and found.verdict == "B is faster"


def test_equal_servers_are_seldom_told_apart():
    verdicts = [compare(rounds(1.0, number=5, seed=seed), 50) for seed in range(6)]
    assert sum(v is not None and v.verdict != "no difference shown" for v in verdicts) <= 1


def test_a_mood_that_both_share_does_not_hide_a_difference():
    found = compare(rounds(1.3, mood_ms=10.0), 50)
    assert found is not None and found.verdict == "B is slower"


def test_two_rounds_are_too_few_for_a_verdict():
    found = compare(rounds(2.0, number=2), 50)
    assert found is not None and found.verdict == "too few rounds"


def test_rounds_that_one_server_did_not_answer_are_left_out():
    assert compare([([1.0], []), ([], [2.0])], 50) is None


def test_the_same_seed_gives_the_same_interval():
    assert compare(rounds(1.1, number=3), 95, seed=3) == compare(rounds(1.1, number=3), 95, seed=3)
