"""Triton's entry point; the logic is in `serving/models/style_transfer.py`."""

from serving.models.style_transfer import TritonPythonModel  # noqa: F401
