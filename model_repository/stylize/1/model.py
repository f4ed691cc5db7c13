"""Triton's entry point; the logic is in `serving/models/stylize.py`."""

from serving.models.stylize import TritonPythonModel  # noqa: F401
