"""The command `reverie`, and what all packages share: errors, written files, progress, ONNX Runtime."""

__version__ = "0.2.0"
"""The one place of it: `pyproject.toml`, `reverie --version` and the provenance of pictures take it from here."""
