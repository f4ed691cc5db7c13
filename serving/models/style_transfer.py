"""Model `style_transfer`: Gatys' optimisation, streamed step by step."""

from __future__ import annotations

from serving.models.pictures import PictureModel, StreamFormat
from serving.models.requests import Request, Send
from synthesis import images
from synthesis.gatys import GatysParameters, transfer


class StyleTransferRequest(GatysParameters, StreamFormat):
    """Parameters of a request."""


class TritonPythonModel(PictureModel):
    """Inputs `image`, `style_image` (one or more) and, optional, `style_mask` (one for each style): encoded pictures.

    Outputs: see `serving.models.pictures.to_outputs`.
    """

    def respond(self, request: Request, send: Send) -> None:
        parameters = request.parameters(StyleTransferRequest)
        content = images.decode(request.bytes("image"))
        styles = [images.decode(data, "style_image") for data in request.files("style_image")]
        masks = [images.decode(data, "style_mask") for data in request.files("style_mask")]
        self.stream(
            lambda on_progress: transfer(content, styles, parameters, on_progress, masks),
            parameters,
            parameters.extractor,
            send,
        )
