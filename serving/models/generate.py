"""Model `generate`: continue a prompt through the text engine; streams, or answers once."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from reverie_client.token_text import to_text

from language.sampling import Logprobs
from language.tokenizer import Tokenizer, load_tokenizer
from serving.python_backend.base import Call, StreamingModel
from serving.python_backend.pinned_model import PinnedModel
from serving.python_backend.response import Responder
from serving.text.parameters import GenerateParameters
from serving.text.pool import EnginePool
from serving.text.request import CANCELLED, TextDelta, TokenLogprobs

READERS = 2
"""Reading a request can mean tokenizing a long prompt; another request should not wait for that."""


class TritonPythonModel(StreamingModel):
    """Each message holds one or more deltas: `text_output`, `index`, `finish_reason`, and `logprobs` where asked.

    A request is read by a thread of the base and then handed to the engine, whose threads send the text.
    """

    def setup(self) -> None:
        folder = PinnedModel(self.args, "language_model").folder
        self._tokenizer = load_tokenizer(folder)
        settings = {name: value["string_value"] for name, value in self.config["parameters"].items()}
        slots, waiting, workers = (int(settings[name]) for name in ("slots", "max_waiting", "workers"))
        workers = workers or len(os.sched_getaffinity(0))
        most = workers * (slots + waiting)
        self._engine = EnginePool(folder, settings["precision"], workers * slots, workers, max_requests=most)
        self.admission = self._engine.admission

    def limits(self) -> tuple[int, int]:
        return READERS, 0

    def threads(self) -> int:
        return READERS

    def finalize(self) -> None:
        super().finalize()
        self._engine.close()

    def answer_call(self, call: Call) -> None:
        request = call.request
        stops = request.texts("stop")
        parameters = request.parameters(GenerateParameters, **({"stop": stops} if stops else {}))
        sink = _ResponseSink(call.responder, self._tokenizer)
        self._engine.submit(request.text("text_input"), parameters, sink, request.client, call.place)


class _ResponseSink:
    """Where the text of one request goes: into Triton's responses."""

    def __init__(self, responder: Responder, tokenizer: Tokenizer):
        self._responder, self._tokenizer = responder, tokenizer

    def send(self, deltas: list[TextDelta], last: bool) -> None:
        self._responder.measurement.tokens += sum(delta.tokens for delta in deltas)
        if deltas and not any(delta.finish_reason == CANCELLED for delta in deltas):
            self._responder.send(self._response(deltas), last)
            return
        if deltas:
            self._responder.send(self._response(deltas))
        if last:
            self._responder.close(status="CANCELLED")

    def begin(self) -> None:
        self._responder.measurement.begin()

    def fail(self, error: BaseException) -> None:
        self._responder.fail(error)

    def cancelled(self) -> bool:
        return self._responder.is_cancelled

    def _response(self, deltas: list[TextDelta]) -> Any:
        tensors = [
            pb_utils.Tensor("text_output", np.array([delta.text.encode() for delta in deltas], np.object_)),
            _tensor("index", tuple(delta.index for delta in deltas)),
            _tensor("finish_reason", tuple(delta.finish_reason for delta in deltas)),
        ]
        if any(delta.logprobs for delta in deltas):
            logprobs = np.array([self._logprobs(delta.logprobs) for delta in deltas], np.object_)
            tensors.append(pb_utils.Tensor("logprobs", logprobs))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _logprobs(self, tokens: tuple[TokenLogprobs, ...]) -> bytes:
        """JSON as in OpenAI's completions: `tokens`, `token_logprobs` and `top_logprobs`, one entry a token."""
        return json.dumps(
            {
                "tokens": [self._text(t.token, t.shown) for t in tokens],
                "token_logprobs": [t.logprobs.chosen if t.logprobs else None for t in tokens],
                "top_logprobs": [self._top(t.logprobs) for t in tokens],
            }
        ).encode()

    def _top(self, logprobs: Logprobs | None) -> dict[str, float] | None:
        return {self._text(token): value for token, value in logprobs.top} if logprobs else None

    def _text(self, token: int, shown: int | None = None) -> str:
        return to_text(self._tokenizer.token_bytes(token)[:shown])


@lru_cache(maxsize=1024)
def _tensor(name: str, values: tuple[int, ...] | tuple[str, ...]) -> Any:
    """A tensor of few different values; making one costs as much as sending it."""
    if name == "index":
        return pb_utils.Tensor(name, np.array(values, np.int32))
    return pb_utils.Tensor(name, np.array([str(value).encode() for value in values], np.object_))
