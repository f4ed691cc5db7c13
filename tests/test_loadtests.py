"""Objectives and percentiles of the load test; no server and no locust."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import slo
from loadtests.measure import Measured, Sample, Samples, percentile, write_csv
from loadtests.slo import Objective, ObjectiveError, check

OBJECTIVE = Objective(p95_ms=100, p99_ms=200, max_failure_ratio=0.1, min_requests=10)
GOOD = Measured(requests=20, failures=2, requests_per_s=2.0, p50_ms=50.0, p95_ms=100.0, p99_ms=200.0)


def broken(**changes: object) -> list[str]:
    """What `OBJECTIVE` says of `GOOD` with some values changed."""
    return check(OBJECTIVE, Measured(**{**vars(GOOD), **changes}))


def test_values_exactly_at_their_bounds_meet_the_objective():
    assert check(OBJECTIVE, GOOD) == []


def test_a_slow_p95_is_a_violation_that_names_both_numbers():
    assert broken(p95_ms=101.0) == ["p95 is 101 ms, at most 100 ms promised"]


def test_a_slow_p99_is_a_violation():
    assert broken(p99_ms=250.0) == ["p99 is 250 ms, at most 200 ms promised"]


def test_p99_is_not_looked_at_where_none_is_promised():
    assert check(Objective(p95_ms=100), Measured(20, 0, 2.0, 50.0, 60.0, 9999.0)) == []


def test_too_many_failures_are_a_violation():
    assert broken(failures=3) == ["3 of 20 requests failed (15.0%), at most 10.0% may"]


def test_too_few_requests_are_a_violation():
    assert broken(requests=9, failures=0) == ["9 requests, at least 10 expected"]


def test_an_endpoint_that_never_succeeded_does_not_pass_for_a_fast_one():
    sentences = broken(failures=20, p50_ms=None, p95_ms=None, p99_ms=None)
    assert [s.split()[0] for s in sentences] == ["20", "p95", "p99"]


def test_every_violation_is_reported_at_once():
    assert len(broken(requests=5, failures=5, p95_ms=101.0, p99_ms=250.0)) == 4


def test_objectives_are_read_by_endpoint(tmp_path: Path):
    file = tmp_path / "slo.toml"
    file.write_text('[generate]\np95_ms = 1500\n["generate first message"]\np95_ms = 80.5\nmin_requests = 3\n')
    assert slo.load(file, ["generate", "generate first message"]) == {
        "generate": Objective(p95_ms=1500),
        "generate first message": Objective(p95_ms=80.5, min_requests=3),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[generat]\np95_ms = 1", r"\[generat\]: unknown endpoint; accepted: generate"),
        ("[generate]\np95 = 1", r"\[generate\] p95: unknown key; accepted: p95_ms, p99_ms"),
        ("[generate]\nmin_requests = 1", r"\[generate\] p95_ms: missing"),
        ("[generate]\np95_ms = -1", r"\[generate\] p95_ms: -1 is not accepted; accepted: a number from 0"),
        ("[generate]\np95_ms = nan", "p95_ms: nan is not accepted"),
        ("[generate]\np95_ms = inf", "p95_ms: inf is not accepted"),
        ("[generate]\np95_ms = true", "p95_ms: True is not accepted"),
        ("[generate]\np95_ms = '1'", "p95_ms: '1' is not accepted"),
        ("[generate]\np95_ms = 1\np99_ms = nan", "p99_ms: nan is not accepted"),
        ("[generate]\np95_ms = 1\nmax_failure_ratio = 1.5", "max_failure_ratio: 1.5 .* a number from 0 to 1"),
        ("[generate]\np95_ms = 1\nmin_requests = 2.5", "min_requests: 2.5 .* a whole number"),
        ("generate = 5", r"\[generate\]: 5 is not accepted; accepted: a table"),
        ("[generate", "not TOML"),
    ],
)
def test_a_malformed_file_is_refused_with_the_entry_and_what_is_accepted(tmp_path: Path, text: str, message: str):
    file = tmp_path / "slo.toml"
    file.write_text(text)
    with pytest.raises(ObjectiveError, match=message) as refused:
        slo.load(file, ["generate"])
    assert str(file) in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ObjectiveError, match=r"cannot be read .* --slo"):
        slo.load(tmp_path / "none.toml", ["generate"])


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


def test_percentiles_keep_full_resolution_and_leave_failures_out():
    samples = [Sample("generate", 1.0, 123.456), Sample("generate", 2.0, 0.1, "UNAVAILABLE: busy")]
    measured = Measured.of(samples, seconds=4.0)
    assert measured == Measured(2, 1, 0.5, 123.456, 123.456, 123.456)


def test_an_endpoint_that_was_never_called_is_measured_as_none():
    assert Samples().measured(["stylize"]) == {"stylize": Measured(0, 0, 0.0, None, None, None)}


def test_csv_files_hold_summaries_failures_and_every_sample(tmp_path: Path):
    samples = Samples()
    samples.record(name="stylize", response_time=12.5, request_type="gRPC", response_length=0)
    samples.record(name="stylize", response_time=1.0, exception=RuntimeError("INTERNAL: broken"))
    samples.record(name="stylize", response_time=1.0, exception=RuntimeError("INTERNAL: broken"))
    write_csv(tmp_path, samples, samples.measured(["stylize"]))
    stats, failures, raw = (read(tmp_path / f"{name}.csv") for name in ("stats", "failures", "samples"))
    assert (stats[0]["requests"], stats[0]["failures"], stats[0]["p95_ms"]) == ("3", "2", "12.5")
    assert failures == [{"name": "stylize", "error": "INTERNAL: broken", "occurrences": "2"}]
    assert (raw[0]["milliseconds"], raw[0]["error"]) == ("12.5", "")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
