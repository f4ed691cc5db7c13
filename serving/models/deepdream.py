"""Model `deepdream`: a dream that is streamed step by step."""

from __future__ import annotations

from serving.models.pictures import PictureFormat, stream_pictures
from serving.models.requests import Request, Send, StreamingModel
from synthesis import images
from synthesis.deepdream import DeepDreamParameters, dream


class DeepDreamRequest(DeepDreamParameters, PictureFormat):
    """Parameters of a request."""


class TritonPythonModel(StreamingModel):
    """Input `image`: an encoded picture. Outputs: see `serving.models.pictures.to_outputs`."""

    def respond(self, request: Request, send: Send) -> None:
        parameters = request.parameters(DeepDreamRequest)
        image = images.decode(request.bytes("image"))
        stream_pictures(lambda on_progress: dream(image, parameters, on_progress), parameters.format, send)
