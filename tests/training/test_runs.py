from pathlib import Path

import numpy as np
import pytest

from training.loop import Schedule
from training.runs import Run, RunError

pytestmark = pytest.mark.tensorflow


def test_the_newest_finished_run_is_found_and_unfinished_ones_are_not(tmp_path):
    for name in ("a", "b"):
        Run.create("style", {}, tmp_path / "style" / name)
    Run(tmp_path / "style" / "a").finish({"loss": 1.0})
    assert Run.newest_finished("style", tmp_path).path.name == "a"


def test_without_a_finished_run_the_message_says_how_to_get_one(tmp_path):
    with pytest.raises(RunError, match="reverie train"):
        Run.newest_finished("style", tmp_path)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    run = Run.create("x", {}, tmp_path / "x")
    values = [np.arange(3.0), np.array(7, np.int64)]
    run.checkpoints.save(5, values)
    step, loaded = run.checkpoints.load()
    assert step == 5
    for a, b in zip(values, loaded, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_checkpoint_comes_back_with_its_step_and_loss(tmp_path):
    run = Run.create("x", {}, tmp_path / "x")
    assert run.checkpoints.load_best() is None
    run.checkpoints.save_best(5, 1.25, [np.arange(3.0)])
    step, loss, values = run.checkpoints.load_best()
    assert (step, loss) == (5, 1.25)
    np.testing.assert_array_equal(values[0], np.arange(3.0))


def test_an_unfinished_run_has_no_result(tmp_path):
    run = Run.create("x", {}, tmp_path / "x")
    with pytest.raises(RunError, match="not finished"):
        _ = run.result


def test_a_schedule_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps is 0; accepted: 1 or more"):
        Schedule(0)


def test_a_run_of_other_settings_names_each_that_differs_with_both_values(tmp_path):
    Run.create("x", {"steps": 5, "model": {"width": 8}, "data_sha256": "a" * 64}, tmp_path / "x")
    with pytest.raises(RunError) as refused:
        Run.create("x", {"steps": 6, "model": {"width": 9}, "data_sha256": "b" * 64, "seed": 1}, tmp_path / "x")
    said = str(refused.value)
    assert "steps is 5 there and 6 here" in said
    assert "model.width is 8 there and 9 here" in said
    assert "data_sha256 is aaaaaaaaaaaa... there and bbbbbbbbbbbb... here" in said
    assert "seed is not given there and 1 here" in said


def test_a_run_remembers_where_its_data_are_from_its_beginning_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run.at("x", tmp_path / "x")
    assert not run.exists
    run.inputs.remember({"data": Path("texts"), "styles": [Path("a.jpg")], "from": None})
    Run.create("x", {}, run.path)
    run.inputs.remember({"data": Path("others")})
    assert run.inputs.path("data") == tmp_path / "texts"
    assert run.inputs.paths("styles") == [tmp_path / "a.jpg"]
    assert run.inputs.path("from") is None


def test_two_runs_of_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    names = [Run.create("x", {}).path.name for _ in range(3)]
    assert names == ["20260101-000000", "20260101-000000-2", "20260101-000000-3"]
