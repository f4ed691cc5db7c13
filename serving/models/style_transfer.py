"""Model `style_transfer`: Gatys' optimization, streamed step by step."""

from __future__ import annotations

from imaging import images
from serving.parameters import StreamFormat
from serving.python_backend.image_stream import IterativeImageModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Send
from synthesis.gatys import GatysParameters, transfer
from synthesis.stages import pixel_steps


class StyleTransferRequest(GatysParameters, StreamFormat):
    """Parameters of a request."""


class TritonPythonModel(IterativeImageModel):
    """Inputs `image`, `style_image` (one or more) and, optional, `style_mask` (one for each style): encoded pictures.

    Outputs: see `serving.python_backend.image_stream.to_outputs`.
    """

    def respond(self, request: InferenceRequest, send: Send) -> None:
        parameters = request.parameters(StyleTransferRequest)
        parameters = parameters.model_copy(update={"max_seconds": self.seconds(parameters.max_seconds)})
        photo, paintings = request.read_bytes("image"), request.files("style_image")
        work = pixel_steps(*images.measure(photo), parameters, len(paintings))
        self.check_work(work, "size, steps, scales, style_image")
        content = images.decode_picture(photo)
        styles = [images.decode(data, "style_image") for data in paintings]
        masks = [images.decode(data, "style_mask") for data in request.files("style_mask")]
        self.stream(
            lambda on_progress: transfer(content.pixels, styles, parameters, on_progress, masks),
            parameters,
            parameters.extractor,
            content,
            request,
            send,
        )
