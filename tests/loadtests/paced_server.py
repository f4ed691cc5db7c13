"""A gRPC server whose capacity is known, for tests of what looks for it: `score` takes a fixed time, one at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

WAITING = 4
"""So many requests may wait; the next is refused at once."""


class PacedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers a request in `seconds`, so 1 / `seconds` of them a second; `texts` are what it was asked to score."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places = threading.Semaphore(1 + WAITING)
        self._turn = threading.Lock()
        self.texts: list[str] = []

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelConfigResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.texts.append(_text_of(request))
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        try:
            with self._turn:
                time.sleep(self._seconds)
        finally:
            self._places.release()
        return _score()

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Any number at once; a stream takes as many seconds as its parameter `max_tokens`, and says nothing."""
        time.sleep(next(requests).parameters["max_tokens"].int64_param)
        yield from ()


@contextlib.contextmanager
def paced_server(seconds: float) -> Iterator[str]:
    """The address of a running one."""
    with recording_server(seconds) as (address, _):
        yield address


@contextlib.contextmanager
def recording_server(seconds: float) -> Iterator[tuple[str, list[str]]]:
    """The address of a running one, and the texts that it has been asked to score so far."""
    paced = PacedServer(seconds)
    server = grpc.server(ThreadPoolExecutor(32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(paced, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", paced.texts
    finally:
        server.stop(None).wait()


def _text_of(request: Any) -> str:
    """The request's text: a BYTES tensor of one element, after its length in four bytes."""
    return request.raw_input_contents[0][4:].decode()


def _score() -> Any:
    """An answer of the model `score`."""
    arrays = {
        "logprob": np.array([-1.0], np.float32),
        "tokens": np.array([b"film"], np.object_),
        "token_logprobs": np.array([-1.0], np.float32),
    }
    response = service_pb2.ModelInferResponse(model_name="score", model_version="1")
    for name, array in arrays.items():
        is_text = array.dtype == np.object_
        response.outputs.add(name=name, datatype="BYTES" if is_text else "FP32", shape=array.shape)
        response.raw_output_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
    return response
