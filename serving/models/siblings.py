"""The ONNX model that a Python model builds on: its newest version's files, and calls to that version.

The version is pinned when the Python model loads, so a vocabulary or a list of styles always belongs to
the weights that answer. Publishing loads the ONNX model first (two versions stay served), then this one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from serving.models.requests import Unavailable


class Sibling:
    """Model `name` beside the model whose `args` these are."""

    def __init__(self, args: dict[str, str], name: str):
        versions = [p for p in (Path(args["model_repository"]).parent / name).glob("*") if p.name.isdigit()]
        if not versions:
            raise FileNotFoundError(f"the model repository has no version of {name}; publish one with 'make export'")
        self.name = name
        self.folder = max(versions, key=lambda p: int(p.name))

    def __call__(self, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
        """Run the pinned version through Triton (business logic scripting), where its batcher applies.

        Raises:
            Unavailable: the model refused, for example because its queue is full.
        """
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=int(self.folder.name),
            requested_output_names=[output],
            inputs=[pb_utils.Tensor(n, a) for n, a in inputs.items()],
        )
        response = request.exec()
        if response.has_error():
            raise Unavailable(f"{self.name}: {response.error().message()}")
        return pb_utils.get_output_tensor_by_name(response, output).as_numpy()
