"""Triton's entry point; the logic is in `serving/models/score.py`."""

from serving.models.score import TritonPythonModel  # noqa: F401
