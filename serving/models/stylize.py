"""Model `stylize`: a picture file in, the picture in a style out, as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serving.python_backend.base import UnaryModel
from serving.python_backend.pinned_model import PinnedModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Outputs, byte_array
from serving.style.choice import StyleChooser, StyleInput
from serving.style.library import StyleLibrary
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Stylist
from serving.telemetry import definitions


class TritonPythonModel(UnaryModel):
    """Input `image`, output `stylized`: encoded pictures. The network is the ONNX model `style` with its batcher.

    The input `style_vector` brings a style that has no name here; the output `styles`, asked for alone, lists the names.
    """

    def setup(self) -> None:
        style = PinnedModel(self.args, "style")
        pixels = definitions.PIXELS.labels(self.args["model_name"])

        def network(photo: np.ndarray, inputs: StyleInput, client: str, folder: Path) -> np.ndarray:
            stylized, _ = style({"image": photo[None], **inputs}, "stylized", client, folder)
            pixels.inc(photo.shape[0] * photo.shape[1])
            return stylized[0]

        library = StyleLibrary(style.folder.parent.parent)
        self._stylist = Stylist(network, StyleChooser(style.folder, style.choose, library))

    def answer(self, request: InferenceRequest) -> Outputs:
        if request.outputs == ["styles"]:
            return {"styles": np.array([name.encode() for name in self._stylist.styles(request.client)], np.object_)}
        stylized = self._stylist.stylize(
            request.read_bytes("image"),
            request.parameters(StylizeParameters),
            request.client,
            request.raise_if_cancelled,
            request.optional_array("style_vector"),
            request.measurement.encode,
        )
        return {"stylized": byte_array(stylized)}
