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


def test_samples_are_asked_for_at_their_steps_and_at_the_end(tmp_path):
    steps = []
    schedule = loop.Schedule(5, sample_every=2)
    loop.fit(Run.create("x", {}, tmp_path / "x"), linear_model(), batch_at, schedule, on_sample=steps.append)
    assert steps == [2, 4, 5]


def test_the_learning_rate_rises_then_falls_to_zero():
    rate = loop.warmup_cosine(1.0, steps=100, warmup=10)
    values = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0, 0.5, 1.0, 0.5, 0.0], abs=1e-3)
