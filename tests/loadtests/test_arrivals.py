"""Schedules of the open loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from loadtests.arrivals import Phase, ScheduleError, schedule

MIX = {"generate": 3, "score": 1}


def test_the_same_seed_draws_the_same_schedule_and_another_seed_another():
    draw = [schedule([Phase(50, 20)], MIX, "poisson", seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_poisson_arrivals_come_at_their_rate_with_exponential_gaps():
    times = np.array([a.at_s for a in schedule([Phase(100, 200)], MIX)])
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (np.diff(times) >= 0).all() and times[0] >= 0 and times[-1] < 200


def test_constant_arrivals_come_at_equal_gaps():
    times = [a.at_s for a in schedule([Phase(4, 2)], MIX, "constant")]
    assert times == pytest.approx([0.125 + i / 4 for i in range(8)])


def test_endpoints_are_chosen_in_proportion_to_their_weights():
    counts = Counter(a.endpoint for a in schedule([Phase(100, 100)], MIX))
    assert counts["generate"] / counts["score"] == pytest.approx(3, rel=0.1)


def test_phases_follow_one_another_at_their_own_rates():
    times = np.array([a.at_s for a in schedule([Phase(10, 10), Phase(30, 5), Phase(5, 10)], MIX, "constant")])
    assert [np.sum((times >= a) & (times < b)) for a, b in ((0, 10), (10, 15), (15, 25))] == [100, 150, 50]


def test_no_phases_have_no_arrivals():
    assert schedule([], MIX) == []


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_refused(rate: float):
    with pytest.raises(ScheduleError, match=r"rate: .* is not accepted; accepted: a number above 0"):
        Phase(rate, 1)


def test_unknown_arrivals_and_empty_mixes_are_refused():
    with pytest.raises(ScheduleError, match="'uniform' is unknown; accepted: poisson, constant"):
        schedule([Phase(1, 1)], MIX, "uniform")
    with pytest.raises(ScheduleError, match="choose no endpoint"):
        schedule([Phase(1, 1)], {"generate": 0})
