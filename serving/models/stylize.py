"""Model `stylize`: a picture file in, the picture in a named style out, as a file.

Decodes, checks, runs the ONNX model `style` through Triton's batcher, and encodes; an app sends files,
not tensors.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from pydantic import BaseModel, ConfigDict, Field

from serving.models.pictures import PictureFormat
from serving.models.requests import Request, byte_array, to_error, to_response
from serving.models.siblings import Sibling
from synthesis import images
from synthesis.errors import InputError


class StylizeParameters(PictureFormat, BaseModel):
    """Parameters of a request.

    Attributes:
        style: a name out of the model's styles; empty takes the first.
        size: the picture is shrunk until its longer side is at most this, in pixels.
        quality: of jpeg and webp.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: str = ""
    size: int = Field(default=1024, ge=images.MIN_SIDE, le=2048)
    quality: int = Field(default=92, ge=1, le=100)


class TritonPythonModel:
    """Input `image`, output `stylized`: encoded pictures."""

    def initialize(self, args: dict[str, str]) -> None:
        self._network = Sibling(args, "style")
        self._styles: list[str] = json.loads((self._network.folder / "styles.json").read_text())

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(Request(raw)) for raw in requests]

    def _answer(self, request: Request) -> Any:
        try:
            return to_response({"stylized": byte_array(self._stylize(request))})
        except Exception as failure:
            return pb_utils.InferenceResponse(error=to_error(failure))

    def _stylize(self, request: Request) -> bytes:
        parameters = request.parameters(StylizeParameters)
        weights = self._weights_of(parameters.style or self._styles[0])
        image = images.fit_within(images.decode(request.bytes("image")), parameters.size)
        images.check_size(image.shape[0], image.shape[1])
        stylized = self._network({"image": image[None], "style_weights": weights[None]}, "stylized")[0]
        return images.encode(stylized, parameters.format, parameters.quality)

    def _weights_of(self, style: str) -> np.ndarray:
        if style not in self._styles:
            raise InputError(f"style: {style!r} is unknown; accepted: {', '.join(self._styles)}")
        return np.eye(len(self._styles), dtype=np.float32)[self._styles.index(style)]
