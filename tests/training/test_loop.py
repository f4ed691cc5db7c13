import itertools
import os
import signal

import keras
import numpy as np
import pytest

from training import loop
from training.runs import Run, RunError


def linear_model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", jit_compile=False)
    return model


def batch_at(step):
    x = np.full((2, 1), step + 1.0, np.float32)
    return x, np.where(step < 5, 2 * x, np.nan).astype(np.float32)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    keras.config.set_dtype_policy("float32")
    run = Run.create("x", {}, tmp_path / "x")
    with pytest.raises(RunError, match="the loss became nan at step 6"):
        loop.fit(run, linear_model(), batch_at, loop.Schedule(10, log_every=4, checkpoint_every=2))
    step, variables = run.load_checkpoint()
    assert step == 4
    assert all(np.isfinite(v).all() for v in variables)


def stop_in(place, number=signal.SIGINT, at=3):
    """A function that sends this process a signal when it is called for the `at`-th time."""
    calls = itertools.count(1)

    def called(*args):
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return place(*args)

    return called


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["batch_at", "train_step"])
def test_a_signal_saves_the_step_it_met_and_the_run_ends_as_an_unbroken_one(tmp_path, place, number):
    keras.config.set_dtype_policy("float32")
    schedule, handler = loop.Schedule(5, log_every=4, checkpoint_every=100), signal.getsignal(number)

    def fit(name, **stops):
        model = linear_model()
        model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
        run = Run.create("x", {}, tmp_path / name)
        train_step = stops.get("train_step", lambda *batch: float(model.train_on_batch(*batch)))
        wrapped = stop_in(train_step, number) if place == "train_step" and stops else train_step
        batches = stop_in(batch_at, number) if place == "batch_at" and stops else batch_at
        return loop.fit(run, model, batches, schedule, train_step=wrapped), model.get_weights(), run

    _, whole, _ = fit("whole")
    with pytest.raises(loop.TrainingStopped, match=r"of 5; to go on: the same command with --run"):
        fit("stopped", stop=True)
    assert Run(tmp_path / "stopped").load_checkpoint()[0] == (3 if place == "train_step" else 2)
    _, resumed, _ = fit("stopped")
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert signal.getsignal(number) is handler


def test_a_last_validation_that_was_stopped_is_made_up_for_and_the_loss_is_kept(tmp_path):
    schedule, measured = loop.Schedule(4, log_every=2, validate_every=4), []

    def validate():
        measured.append(len(measured))
        return {"loss": 0.5}

    run = Run.create("x", {}, tmp_path / "x")
    with pytest.raises(loop.TrainingStopped):
        loop.fit(run, linear_model(), batch_at, schedule, validate=stop_in(validate, at=1))
    assert run.load_checkpoint()[0] == 4
    loss = loop.fit(run, linear_model(), batch_at, schedule, validate=validate)
    assert np.isfinite(loss)
    assert run.load_best()[:2] == (4, 0.5)
    assert loop.fit(run, linear_model(), batch_at, schedule, validate=validate) == loss
    assert len(measured) == 1


def test_the_first_loss_is_shown_after_the_first_step(tmp_path, capsys):
    loop.fit(Run.create("x", {}, tmp_path / "x"), linear_model(), batch_at, loop.Schedule(3, log_every=100))
    assert "step 1/3  loss" in capsys.readouterr().err


def test_samples_are_asked_for_at_their_steps_and_at_the_end(tmp_path):
    steps = []
    schedule = loop.Schedule(5, sample_every=2)
    loop.fit(Run.create("x", {}, tmp_path / "x"), linear_model(), batch_at, schedule, on_sample=steps.append)
    assert steps == [2, 4, 5]


def test_the_learning_rate_rises_then_falls_to_zero():
    rate = loop.warmup_cosine(1.0, steps=100, warmup=10)
    values = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0, 0.5, 1.0, 0.5, 0.0], abs=1e-3)
