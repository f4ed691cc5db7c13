"""Model `style_transfer`: Gatys' optimisation, streamed step by step."""

from __future__ import annotations

from serving.models.pictures import PictureFormat, stream_pictures
from serving.models.requests import Request, Send, StreamingModel
from synthesis import images
from synthesis.gatys import GatysParameters, transfer


class StyleTransferRequest(GatysParameters, PictureFormat):
    """Parameters of a request."""


class TritonPythonModel(StreamingModel):
    """Inputs `image` and `style_image`: encoded pictures. Outputs: see `serving.models.pictures.to_outputs`."""

    def respond(self, request: Request, send: Send) -> None:
        parameters = request.parameters(StyleTransferRequest)
        content = images.decode(request.bytes("image"))
        style = images.decode(request.bytes("style_image"), "style_image")
        stream_pictures(lambda on_progress: transfer(content, style, parameters, on_progress), parameters.format, send)
