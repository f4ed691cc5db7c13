"""What TensorFlow logs of GPUs: nothing where there is none, its errors where there is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from synthesis import gpu


@pytest.mark.parametrize("driver", gpu.DRIVERS)
def test_errors_of_a_gpu_are_seen_where_there_is_one(monkeypatch, tmp_path, driver):
    there, missing = tmp_path / driver.name, tmp_path / "missing"
    there.touch()
    monkeypatch.setattr(gpu, "DRIVERS", (missing, there))
    assert gpu.log_level() == "2"
    monkeypatch.setattr(gpu, "DRIVERS", (missing,))
    assert gpu.log_level() == "3"


@pytest.mark.slow
@pytest.mark.skipif(gpu.has_gpu(), reason="there is a GPU, whose errors are to be seen")
def test_a_command_that_uses_tensorflow_says_nothing_of_gpus_where_there_is_none():
    """It looks for them at its first computation."""
    code = (
        "import sys; from reverie import cli\n"
        "def compute(): import tensorflow as tf; tf.constant(1)\n"
        "cli.cli.command('compute')(compute); sys.argv[1:] = ['compute']; cli.app()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
