"""Model `deepdream`: a dream that is streamed step by step."""

from __future__ import annotations

from imaging import images
from serving.parameters import StreamFormat
from serving.python_backend.image_stream import IterativeImageModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Send
from synthesis.deepdream import DeepDreamParameters, dream, pixel_steps


class DeepDreamRequest(DeepDreamParameters, StreamFormat):
    """Parameters of a request."""


class TritonPythonModel(IterativeImageModel):
    """Inputs `image` and, optional, `guide_image`: encoded pictures. Outputs: see `serving.python_backend.image_stream.to_outputs`."""

    def respond(self, request: InferenceRequest, send: Send) -> None:
        parameters = request.parameters(DeepDreamRequest)
        parameters = parameters.model_copy(update={"max_seconds": self.seconds(parameters.max_seconds)})
        photo = request.read_bytes("image")
        work = pixel_steps(*images.measure(photo), parameters)
        self.check_work(work, "size, num_octave, octave_scale, iterations, frames")
        picture = images.decode_picture(photo)
        guide = images.decode(data, "guide_image") if (data := request.read_bytes("guide_image")) else None
        self.stream(
            lambda on_progress: dream(picture.pixels, parameters, on_progress, guide),
            parameters,
            parameters.extractor,
            picture,
            request,
            send,
            parameters.zoom,
        )
