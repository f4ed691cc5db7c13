"""Whether this machine has an NVIDIA GPU, without asking TensorFlow, which has to be told before it is imported."""

from __future__ import annotations

from pathlib import Path

DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""The driver's files: of Linux, and of Linux under Windows."""


def has_gpu() -> bool:
    """Return whether a driver for an NVIDIA GPU is loaded."""
    return any(path.exists() for path in DRIVERS)


def log_level() -> str:
    """Return TF_CPP_MIN_LOG_LEVEL that shows errors; none without a GPU, whose absence TensorFlow logs as an error.

    What ends a computation is raised as an exception too, and is seen at either level.
    """
    return "2" if has_gpu() else "3"
