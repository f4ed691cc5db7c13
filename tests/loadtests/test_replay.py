"""Recorded calls as a schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadtests import mix
from loadtests.arrivals import Arrival
from loadtests.calls import dropped_call
from loadtests.measure import write_csv
from loadtests.replay import ReplayError, read_calls
from tests.loadtests.made import REFUSED, call


def test_recorded_calls_are_due_again_when_they_were_with_the_same_seeds_whatever_became_of_them(tmp_path: Path):
    calls = [
        replace(call(0.25, lag_ms=40.0), seed=7),
        replace(call(0.125, endpoint="generate", error=REFUSED), seed=8),
        dropped_call("score", 1 / 3, seed=2**31 - 1),
    ]
    write_csv(tmp_path, calls, {}, "default")
    assert read_calls(tmp_path / "calls.csv", mix.DEFAULT) == [
        Arrival(0.125, "generate", 8),
        Arrival(0.25, "stylize", 7),
        Arrival(1 / 3, "score", 2**31 - 1),
    ]


def test_a_log_of_times_and_endpoints_is_enough(tmp_path: Path):
    (tmp_path / "log.csv").write_text("\ufeffscheduled_s,endpoint\n2,score\n1.5,score\n", encoding="utf-8")
    assert read_calls(tmp_path / "log.csv", mix.DEFAULT) == [Arrival(1.5, "score", 3), Arrival(2.0, "score", 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column endpoint: missing; found: none"),
        ("endpoint,at\nscore,1\n", "column scheduled_s: missing; found: endpoint, at"),
        ("endpoint,scheduled_s\n", "there are no calls in it"),
        ("endpoint,scheduled_s\nscore,0\nscor,1\n", "line 3: endpoint: 'scor' is not accepted; accepted: generate, "),
        ("endpoint,scheduled_s\nscore,-1\n", "line 2: scheduled_s: '-1' is not accepted; accepted: seconds from"),
        ("endpoint,scheduled_s\nscore,nan\n", "scheduled_s: 'nan' is not accepted"),
        ("endpoint,scheduled_s\nscore,1790000000\n", "scheduled_s: '1790000000' is not accepted; .* 0 to 604800"),
        ("endpoint,scheduled_s\nscore\n", "scheduled_s: '' is not accepted"),
        ("endpoint,scheduled_s,seed\nscore,1,-3\n", "seed: '-3' is not accepted; accepted: a whole number from 0"),
        ("endpoint,scheduled_s,seed\nscore,1,\n", "seed: '' is not accepted"),
        (
            "endpoint,scheduled_s,mix\nscore,1,abc\n",
            "mix: 'abc' was recorded, and this mix is 'default'; give the file",
        ),
    ],
)
def test_what_cannot_be_replayed_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "calls.csv").write_text(text)
    with pytest.raises(ReplayError, match=rf"calls\.csv: .*{message}"):
        read_calls(tmp_path / "calls.csv", mix.DEFAULT)


def test_a_missing_file_is_named():
    with pytest.raises(ReplayError, match=r"no\.csv: cannot be read \(No such file.*--replay"):
        read_calls(Path("no.csv"), mix.DEFAULT)
