"""Triton's entry point; the logic is in `serving/models/deepdream.py`."""

from serving.models.deepdream import TritonPythonModel  # noqa: F401
