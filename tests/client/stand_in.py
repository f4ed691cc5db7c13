"""A gRPC server in this process that refuses as it is told, for tests of what a client does then."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from reverie_client.messages import bytes_tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor


@dataclass(frozen=True)
class Refusal:
    """How a call is refused.

    Attributes:
        after: messages of a stream that come first.
        is_in_band: as a stream's message, as Reverie's models do it.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "the queue is full"
    metadata: tuple[tuple[str, str], ...] = ()
    after: int = 0
    is_in_band: bool = False


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Refuses the first calls as `refusals` say, one each, and all of them with `always`; answers the others.

    Attributes:
        requests: of inference, in the order in which they came.
        metadata: of each of them.
        controls: how often it was asked to control models, which it refuses.
        answered: calls that were not cancelled before they were answered.
        left: set when a stream that was `endless` has been cancelled.
    """

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.always: Refusal | None = None
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.controls = 0
        self.answered = 0
        self.is_endless = False
        self.left = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):
        answer = service_pb2.ModelConfigResponse()
        answer.config.parameters["styles"].string_value = "starry_night,wave"
        return answer

    def RepositoryIndex(self, request, context):
        self.controls += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "later")

    RepositoryModelLoad = RepositoryIndex

    def ModelInfer(self, request, context):
        self._refuse(request, context)
        self.may_answer.wait(10)
        self.answered += context.is_active()
        return ANSWERS[request.model_name]

    def ModelStreamInfer(self, requests, context):
        request = next(requests)
        refusal = self._next(request, context)
        for _ in range(refusal.after if refusal else 0):
            yield service_pb2.ModelStreamInferResponse(infer_response=ANSWERS[request.model_name])
        if refusal and refusal.is_in_band:
            yield service_pb2.ModelStreamInferResponse(error_message=f"{refusal.code.name}: {refusal.message}")
            return
        if refusal:
            context.set_trailing_metadata(refusal.metadata)
            context.abort(refusal.code, refusal.message)
        if self.is_endless:
            context.add_callback(self.left.set)
        while context.is_active():
            yield service_pb2.ModelStreamInferResponse(infer_response=ANSWERS[request.model_name])
            if not self.is_endless:
                return
            self.left.wait(0.01)

    def _next(self, request, context) -> Refusal | None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return self.refusals.pop(0) if self.refusals else self.always

    def _refuse(self, request, context) -> None:
        if refusal := self._next(request, context):
            context.set_trailing_metadata(refusal.metadata)
            context.abort(refusal.code, refusal.message)


def _answer(**arrays: np.ndarray) -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse(model_version="1")
    for name, array in arrays.items():
        is_bytes = array.dtype == np.object_
        datatype = "BYTES" if is_bytes else np_to_triton_dtype(array.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(serialize_byte_tensor(array).item() if is_bytes else array.tobytes())
    return response


_STEP = {
    "step": np.array([1], np.int32), "steps": np.array([1], np.int32), "stage": np.array([0], np.int32),
    "loss": np.array([0.5]), "seconds": np.array([0.1]), "image": bytes_tensor(b"picture"), "done": np.array([True]),
    "loss_parts": bytes_tensor(json.dumps({"content": 0.5}).encode()), "shape": np.array([2, 3, 3], np.int32),
    "frame": np.array([0], np.int32), "stopped": bytes_tensor(b""), "exact": np.array([True]),
}  # fmt: skip
ANSWERS = {
    "stylize": _answer(stylized=bytes_tensor(b"painting")),
    "score": _answer(logprob=np.array([-1.5]), tokens=bytes_tensor(b"a"), token_logprobs=np.array([-1.5])),
    "generate": _answer(
        text_output=bytes_tensor(b" good"), finish_reason=bytes_tensor(b""), index=np.array([0], np.int32)
    ),
    "deepdream": _answer(**_STEP),
    "style_transfer": _answer(**_STEP),
}


@contextlib.contextmanager
def running() -> Iterator[tuple[str, StandIn]]:
    """Its address, and the server itself."""
    listener, servicer = grpc.server(ThreadPoolExecutor(4)), StandIn()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        servicer.may_answer.set()
        servicer.left.set()
        listener.stop(None).wait()
