"""The search for a capacity, and what is said of overload; on servers whose capacity is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.search import Overload, Search, highest_rate, overload, recovery_seconds, typical, worst
from loadtests.slo import Objective, OverloadBounds
from tests.loadtests.made import BROKEN, REFUSED, steady

OBJECTIVE = Objective(p95_ms=200)
CALM = Overload(1.0, 1.5, 20.0, 1.0, refused=10, failed=0)


@given(capacity=st.floats(0.1, 1900), start=st.floats(0.01, 5000), precision=st.floats(0.02, 0.5))
def test_the_capacity_is_found_from_below_within_the_precision(capacity: float, start: float, precision: float):
    tried: list[float] = []

    def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = highest_rate(meets, start, Search(precision))
    assert found in tried
    assert found <= capacity <= found * (1 + precision) * (1 + 1e-9)
    assert len(tried) < 30


def test_a_step_that_failed_by_accident_does_not_decide():
    tried: list[float] = []

    def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= 100 and len(tried) != 6  # the neighbor is busy once

    assert 95 <= (highest_rate(meets, start=20) or 0) <= 100
    assert 95 < tried[5] < 96


def test_a_server_that_never_meets_its_objective_has_no_capacity():
    assert highest_rate(lambda rate: False, start=10) is None


def test_the_search_stops_at_the_highest_rate_that_may_be_tried():
    assert highest_rate(lambda rate: True, start=10, search=Search(highest=50)) == 50


def test_overload_compares_the_surge_with_the_load_before_it():
    calls = steady(10, 0, 10, ms=100) + steady(9, 10, 10, ms=150) + steady(21, 10, 10, ms=30, error=REFUSED)
    found = overload(calls + steady(5, 20, 10, ms=100), OBJECTIVE, (10, 20))
    assert found.goodput_at_3x == pytest.approx(0.9)
    assert found.p99_ratio_at_3x == pytest.approx(1.5)
    assert found.reject_ms_p99 == pytest.approx(30)
    assert (found.recovery_seconds, found.refused, found.failed) == (0.0, 210, 0)
    assert found.violations(OverloadBounds()) == []


def test_answers_that_come_too_late_are_no_goodput():
    calls = steady(10, 0, 10, ms=100) + steady(30, 10, 10, ms=5000) + steady(5, 20, 10, ms=100)
    assert overload(calls, OBJECTIVE, (10, 20)).goodput_at_3x == 0.0


def test_recovery_lasts_until_the_last_bad_answer():
    backlog = steady(5, 20, 4, ms=3000) + steady(5, 24, 6, ms=100)
    assert recovery_seconds(backlog, 20, 200) == pytest.approx(4.0)
    assert recovery_seconds(steady(5, 20, 10, ms=100), 20, 200) == 0.0
    assert recovery_seconds(backlog + steady(5, 30, 1, ms=10, error=BROKEN), 20, 200) is None
    assert recovery_seconds([], 20, 200) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"goodput_at_3x": 0.5}, "goodput_at_3x is 0.5, at least 0.9 promised"),
        ({"goodput_at_3x": None}, "goodput_at_3x is unknown, at least 0.9 promised"),
        ({"p99_ratio_at_3x": 3.0}, "p99_ratio_at_3x is 3, at most 2 promised"),
        ({"reject_ms_p99": 150.0}, "reject_ms_p99 is 150, at most 100 promised"),
        ({"recovery_seconds": None}, "recovery_seconds is unknown, at most 5 promised"),
    ],
)
def test_each_bound_is_held(change: dict[str, float | None], sentence: str):
    assert Overload(**{**vars(CALM), **change}).violations(OverloadBounds()) == [sentence]


def test_a_server_that_refuses_nothing_breaks_no_bound_on_refusals():
    assert Overload(**{**vars(CALM), "reject_ms_p99": None}).violations(OverloadBounds()) == []


def test_the_worst_endpoint_speaks_for_all():
    slow = Overload(0.7, 4.0, None, 9.0, refused=0, failed=3)
    assert worst([CALM, slow]) == {
        "goodput_at_3x": 0.7,
        "p99_ratio_at_3x": 4.0,
        "reject_ms_p99": 20.0,
        "recovery_seconds": 9.0,
    }
    stuck = Overload(None, None, None, None, refused=0, failed=9)
    assert worst([CALM, stuck])["recovery_seconds"] is None


def test_the_median_surge_counts_and_a_missing_measure_is_the_worst():
    slow, dead = Overload(0.5, 3.0, 200.0, 9.0, 5, 1), Overload(None, None, None, None, 0, 7)
    assert typical([slow, CALM, CALM]) == Overload(1.0, 1.5, 20.0, 1.0, refused=25, failed=1)
    assert typical([dead, slow, CALM]) == Overload(0.5, 3.0, 200.0, 9.0, refused=15, failed=8)
    assert typical([dead, dead, CALM]) == Overload(None, None, 20.0, None, refused=10, failed=14)
    assert typical([slow, CALM]).goodput_at_3x == 0.5
