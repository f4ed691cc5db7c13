"""Triton's entry point; the logic is in `serving/models/generate.py`."""

from serving.models.generate import TritonPythonModel  # noqa: F401
