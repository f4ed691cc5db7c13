"""Model `stylize`: a picture file in, the picture in a named style out, as a file."""

from __future__ import annotations

import numpy as np

from serving.python_backend.base import UnaryModel
from serving.python_backend.pinned_model import PinnedModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Outputs, byte_array
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Stylist
from serving.telemetry import definitions


class TritonPythonModel(UnaryModel):
    """Input `image`, output `stylized`: encoded pictures. The network is the ONNX model `style` with its batcher."""

    def setup(self) -> None:
        style = PinnedModel(self.args, "style")
        pixels = definitions.PIXELS.labels(self.args["model_name"])

        def network(photo: np.ndarray, weights: np.ndarray, client: str) -> tuple[np.ndarray, int]:
            stylized, version = style({"image": photo[None], "style_weights": weights[None]}, "stylized", client)
            pixels.inc(photo.shape[0] * photo.shape[1])
            return stylized[0], version

        self._stylist = Stylist(style.folder, network)

    def answer(self, request: InferenceRequest) -> Outputs:
        parameters = request.parameters(StylizeParameters)
        stylized = self._stylist.stylize(
            request.read_bytes("image"), parameters, request.client, request.raise_if_cancelled
        )
        return {"stylized": byte_array(stylized)}
