"""Objectives of the load test; no server and no locust."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests import slo
from loadtests.endpoints import ENDPOINTS, recorded_names
from loadtests.measure import Measured
from loadtests.slo import Objective, ObjectiveError, OverloadBounds, SoakBounds, check

OBJECTIVE = Objective(
    p95_ms=100, p99_ms=200, max_failure_ratio=0.1, min_requests=10, min_goodput_ratio=0.85, min_achieved_ratio=0.9
)
GOOD = Measured(
    requests=20, failures=2, good=17, offered_per_s=2.0, achieved_per_s=1.8, p50_ms=50.0, p95_ms=100.0, p99_ms=200.0
)


def broken(**changes: object) -> list[str]:
    """What `OBJECTIVE` says of `GOOD` with some values changed."""
    return check(OBJECTIVE, Measured(**{**vars(GOOD), **changes}))


def test_values_exactly_at_their_bounds_meet_the_objective():
    assert check(OBJECTIVE, GOOD) == []


def test_a_slow_p95_is_a_violation_that_names_both_numbers():
    assert broken(p95_ms=101.0) == ["p95 is 101 ms, at most 100 ms promised"]


def test_a_slow_p99_is_a_violation():
    assert broken(p99_ms=250.0) == ["p99 is 250 ms, at most 200 ms promised"]


def test_what_is_not_promised_is_not_looked_at():
    assert check(Objective(p95_ms=100), Measured(requests=20, p50_ms=50.0, p95_ms=60.0, p99_ms=9999.0)) == []


def test_too_many_failures_are_a_violation():
    assert broken(failures=3) == ["3 of 20 requests failed (15.0%), at most 10.0% may"]


def test_too_few_requests_are_a_violation():
    assert broken(requests=9, failures=0, good=9) == ["9 requests, at least 10 expected"]


def test_too_few_good_answers_are_a_violation():
    assert broken(good=16) == ["good answers (within 200 ms): 80.0%, at least 85.0% promised"]


def test_a_server_that_does_not_keep_up_is_a_violation():
    assert broken(achieved_per_s=1.0) == ["achieved rate over offered rate: 50.0%, at least 90.0% promised"]


def test_an_endpoint_that_never_succeeded_does_not_pass_for_a_fast_one():
    sentences = broken(failures=20, good=0, achieved_per_s=0.0, p50_ms=None, p95_ms=None, p99_ms=None)
    assert [s.split()[0] for s in sentences] == ["20", "p95", "p99", "good", "achieved"]


def test_a_good_answer_is_within_the_highest_bound_promised():
    assert Objective(p95_ms=100).good_ms == 100
    assert OBJECTIVE.good_ms == 200


def test_objectives_are_read_by_load_and_endpoint(tmp_path: Path):
    file = tmp_path / "slo.toml"
    file.write_text('[closed.generate]\np95_ms = 1500\n[closed."generate first message"]\np95_ms = 80.5\n[open]\n')
    names = ["generate", "generate first message"]
    assert slo.load(file, "closed", names) == {
        "generate": Objective(p95_ms=1500),
        "generate first message": Objective(p95_ms=80.5),
    }
    assert slo.load(file, "open", names) == {}


def test_bounds_of_overload_and_soak_are_read_with_defaults_for_the_rest(tmp_path: Path):
    file = tmp_path / "slo.toml"
    file.write_text("[overload]\nrecovery_seconds = 9\n")
    assert slo.load_overload(file) == OverloadBounds(recovery_seconds=9)
    assert slo.load_soak(file) == SoakBounds()


def test_the_shipped_file_promises_something_for_every_endpoint_under_every_load():
    for load in slo.LOADS:
        assert slo.load(slo.DEFAULT_FILE, load, recorded_names()).keys() >= ENDPOINTS.keys()
    assert slo.load_overload(slo.DEFAULT_FILE) == OverloadBounds(0.9, 2.0, 100, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[closed.generat]\np95_ms = 1", r"\[closed.generat\]: unknown endpoint; accepted: generate"),
        ("[closed.generate]\np95 = 1", r"\[closed.generate\] p95: unknown key; accepted: p95_ms, p99_ms"),
        ("[closed.generate]\nmin_requests = 1", r"\[closed.generate\] p95_ms: missing"),
        ("[closed.generate]\np95_ms = -1", r"\[closed.generate\] p95_ms: -1 is not accepted; accepted: a number"),
        ("[closed.generate]\np95_ms = nan", "p95_ms: nan is not accepted"),
        ("[closed.generate]\np95_ms = inf", "p95_ms: inf is not accepted"),
        ("[closed.generate]\np95_ms = true", "p95_ms: True is not accepted"),
        ("[closed.generate]\np95_ms = '1'", "p95_ms: '1' is not accepted"),
        ("[closed.generate]\np95_ms = 1\np99_ms = nan", "p99_ms: nan is not accepted"),
        ("[closed.generate]\np95_ms = 1\nmax_failure_ratio = 1.5", "max_failure_ratio: 1.5 .* a number from 0 to 1"),
        ("[closed.generate]\np95_ms = 1\nmin_goodput_ratio = 2", "min_goodput_ratio: 2 .* a number from 0 to 1"),
        ("[closed.generate]\np95_ms = 1\nmin_requests = 2.5", "min_requests: 2.5 .* a whole number"),
        ("[closed.generate]\np95_ms = 1\nmin_requests = -1", "min_requests: -1 .*accepted: a whole number from 0$"),
        ("[closed.generate]\np95_ms = 1\np99_ms = -1", "p99_ms: -1 is not accepted; accepted: a number from 0$"),
        ("[closed.generate]\np95_ms = 1\nself = 1", "self: unknown key; accepted: p95_ms"),
        ("[closed]\ngenerate = 5", r"\[closed.generate\]: 5 is not accepted; accepted: a table"),
        ("closed = 5", r"\[closed\]: 5 is not accepted; accepted: a table for each endpoint"),
        ("[generate]\np95_ms = 1", r"\[generate\]: unknown table; accepted: closed, open"),
        ("[closed", "not TOML"),
    ],
)
def test_a_malformed_file_is_refused_with_the_entry_and_what_is_accepted(tmp_path: Path, text: str, message: str):
    file = tmp_path / "slo.toml"
    file.write_text(text)
    with pytest.raises(ObjectiveError, match=message) as refused:
        slo.load(file, "closed", ["generate"])
    assert str(file) in str(refused.value)


def test_malformed_bounds_are_refused(tmp_path: Path):
    file = tmp_path / "slo.toml"
    file.write_text("[overload]\nrecovery = 9\n[soak]\nmax_growth_mib_per_hour = -1\n")
    with pytest.raises(ObjectiveError, match=r"\[overload\] recovery: unknown key; accepted: goodput_at_3x"):
        slo.load_overload(file)
    with pytest.raises(ObjectiveError, match=r"\[soak\] max_growth_mib_per_hour: -1"):
        slo.load_soak(file)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ObjectiveError, match=r"cannot be read .* --slo"):
        slo.load(tmp_path / "none.toml", "closed", ["generate"])
