"""Percentiles, rates and files computed from calls."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.calls import Call, Outcome, dropped_call
from loadtests.measure import Measured, measure, percentile, times_of, write_csv
from tests.loadtests.made import BROKEN, REFUSED, call


def test_percentiles_of_one_to_a_hundred_are_their_ranks():
    assert [percentile(range(1, 101), rank) for rank in (50, 95, 99, 100)] == [50, 95, 99, 100]


def test_a_single_value_is_every_percentile():
    assert [percentile([7.25], rank) for rank in (0, 50, 99, 100)] == [7.25] * 4


def test_no_values_have_no_percentile():
    assert percentile([], 95) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(values: list[float], rank: float):
    found = percentile(values, rank)
    assert found in values
    share = rank / 100 - 1e-9
    assert sum(v <= found for v in values) / len(values) >= share
    assert sum(v < found for v in values) / len(values) < rank / 100 + 1e-9


def test_latency_counts_from_the_scheduled_time_not_from_a_late_sending():
    late = call(at_s=1.0, ms=500.0, lag_ms=400.0)
    assert late.milliseconds == pytest.approx(500)
    assert late.lag_ms == pytest.approx(400)


def test_percentiles_keep_full_resolution_and_leave_failures_out():
    measured = Measured.of([call(ms=123.456), call(ms=0.1, error=REFUSED)], offered_s=4.0)
    assert (measured.requests, measured.failures, measured.refused) == (2, 1, 1)
    assert measured.p50_ms == measured.p99_ms == pytest.approx(123.456)
    assert measured.refused_p99_ms == pytest.approx(0.1)


def test_goodput_counts_only_answers_within_the_bound():
    measured = Measured.of([call(ms=50), call(ms=150), call(ms=50, error=BROKEN)], offered_s=2.0, good_ms=100)
    assert (measured.good, measured.goodput_per_s) == (1, 0.5)
    assert (measured.achieved_per_s, measured.offered_per_s) == (1.0, 1.5)


def test_a_server_that_answers_late_has_a_lower_achieved_than_offered_rate():
    calls = [call(at_s=i, ms=10_000) for i in range(10)]
    measured = measure(calls, ["stylize"], offered_s=10.0)["stylize"]
    assert measured.offered_per_s == 1.0
    assert measured.achieved_per_s == pytest.approx(10 / 19)


def test_outcomes_tell_refused_dropped_and_failed_apart():
    calls = [call(), call(error=REFUSED), call(error="RESOURCE_EXHAUSTED: full"), call(error=BROKEN)]
    outcomes = [c.outcome for c in [*calls, dropped_call("stylize", 1.0, seed=0)]]
    assert outcomes == [Outcome.ANSWERED, Outcome.REFUSED, Outcome.REFUSED, Outcome.FAILED, Outcome.DROPPED]


def test_times_within_streams_are_measured_beside_whole_answers():
    stream = Call("generate", 10.0, 10.0, 10.5, message_s=(10.1, 10.2, 10.5))
    assert times_of("generate first message", [stream]) == pytest.approx([100])
    assert times_of("generate between messages", [stream]) == pytest.approx([100, 300])
    assert measure([stream], ["generate between messages"], 1.0)["generate between messages"].requests == 2


def test_payload_and_pixels_become_rates():
    picture = Call("stylize", 0.0, 0.0, 0.5, received_bytes=2**20, pixels=500_000)
    measured = Measured.of([picture], offered_s=2.0)
    assert (measured.received_mib_per_s, measured.megapixels_per_s) == (0.5, 0.25)


def test_an_endpoint_that_was_never_called_is_measured_as_none():
    measured = measure([], ["stylize", "generate first message"], 1.0)
    assert measured == {"stylize": Measured(), "generate first message": Measured()}


def test_csv_files_hold_summaries_failures_and_every_call(tmp_path: Path):
    calls = [call(ms=12.5), call(ms=1.0, error=BROKEN), call(ms=1.0, error=BROKEN)]
    write_csv(tmp_path, calls, measure(calls, ["stylize"], 1.0), "default")
    stats, failures, raw = (read(tmp_path / f"{name}.csv") for name in ("stats", "failures", "calls"))
    assert (stats[0]["requests"], stats[0]["failures"], stats[0]["p95_ms"]) == ("3", "2", "12.5")
    assert failures == [{"endpoint": "stylize", "error": BROKEN, "occurrences": "2"}]
    assert (raw[0]["milliseconds"], raw[0]["error"], len(raw)) == ("12.5", "", 3)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
