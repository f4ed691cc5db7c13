"""The graphs of a version of the model `style`."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

MODEL = "model.onnx"
"""What a CPU serves."""
GPU_MODEL = "model_float16.onnx"
"""What a GPU serves; see `default_model_filename` in `configs/gpu.pbtxt`."""


def graph_here(folder: Path) -> Path:
    """The graph of a version that this machine serves."""
    on_gpu = "CUDAExecutionProvider" in ort.get_available_providers() and (folder / GPU_MODEL).exists()
    return folder / (GPU_MODEL if on_gpu else MODEL)
