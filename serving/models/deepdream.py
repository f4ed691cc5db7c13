"""Model `deepdream`: a dream that is streamed step by step."""

from __future__ import annotations

from serving.models.pictures import PictureModel, StreamFormat
from serving.models.requests import Request, Send
from synthesis import images
from synthesis.deepdream import DeepDreamParameters, dream


class DeepDreamRequest(DeepDreamParameters, StreamFormat):
    """Parameters of a request."""


class TritonPythonModel(PictureModel):
    """Inputs `image` and, optional, `guide_image`: encoded pictures. Outputs: see `serving.models.pictures.to_outputs`."""

    def respond(self, request: Request, send: Send) -> None:
        parameters = request.parameters(DeepDreamRequest)
        image = images.decode(request.bytes("image"))
        guide = images.decode(data, "guide_image") if (data := request.bytes("guide_image")) else None
        self.stream(
            lambda on_progress: dream(image, parameters, on_progress, guide), parameters, parameters.extractor, send
        )
