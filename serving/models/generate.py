"""Model `generate`: continue a prompt through the text engine; streams, or answers once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from reverie_client.token_text import to_text

from language.sampling import Logprobs
from language.tokenizer import Tokenizer, load_tokenizer
from reverie.errors import Unavailable
from serving.python_backend.admission import AdmissionController
from serving.python_backend.pinned_model import PinnedModel
from serving.python_backend.request import Request, client_of, to_stream_error
from serving.text.engine import Piece, TokenLogprobs
from serving.text.parameters import GenerateParameters
from serving.text.pool import EnginePool

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Each message holds one or more pieces: `text_output`, `index`, `finish_reason`, and `logprobs` where asked.

    Every request asks the same engine, whatever thread reads it.
    """

    def initialize(self, args: dict[str, str]) -> None:
        settings = {k: v["string_value"] for k, v in json.loads(args["model_config"])["parameters"].items()}
        folder = PinnedModel(args, "language_model").folder
        self._tokenizer = load_tokenizer(folder)
        slots, waiting, workers = (int(settings[name]) for name in ("slots", "max_waiting", "workers"))
        workers = workers or len(os.sched_getaffinity(0))
        self._engine = EnginePool(folder, settings["precision"], workers * slots, workers)
        self._places = AdmissionController(2 * workers * (slots + waiting))
        # Reading a request can mean tokenizing a long prompt; another request should not wait for that.
        self._readers = ThreadPoolExecutor(2)

    def execute(self, requests: list[Any]) -> None:
        for raw in requests:
            sender, client = raw.get_response_sender(), client_of(raw)
            try:
                self._places.acquire(client)
            except Unavailable as full:
                sender.send(pb_utils.InferenceResponse(error=to_stream_error(full)), flags=_FINAL)
            else:
                sink = _TritonSink(sender, self._tokenizer, partial(self._places.release, client))
                self._readers.submit(self._submit, raw, sink)

    def finalize(self) -> None:
        self._readers.shutdown(wait=True)
        self._engine.close()

    def _submit(self, raw: Any, sink: _TritonSink) -> None:
        try:
            request = Request(raw)
            stops = request.texts("stop")
            parameters = request.parameters(GenerateParameters, **({"stop": stops} if stops else {}))
            self._engine.submit(request.text("text_input"), parameters, sink, request.client)
        except BaseException as failure:
            sink.fail(failure)


class _TritonSink:
    """One request's way back through Triton; `on_end` is called once, after the last response.

    Triton frees what a sender refers to once its final response is sent; a question that came later would
    read freed memory, so both take turns.
    """

    def __init__(self, sender: Any, tokenizer: Tokenizer, on_end: Callable[[], None]):
        self._sender, self._tokenizer, self._on_end = sender, tokenizer, on_end
        self._turn = threading.Lock()
        self._ended = False

    def send(self, pieces: list[Piece], last: bool) -> None:
        if pieces:
            self._send(self._response(pieces), last=last)
        else:
            self._send(last=last)

    def fail(self, error: BaseException) -> None:
        self._send(pb_utils.InferenceResponse(error=to_stream_error(error)), last=True)

    def cancelled(self) -> bool:
        with self._turn:
            return not self._ended and self._sender.is_cancelled()

    def _send(self, *response: Any, last: bool) -> None:
        with self._turn:
            ends, self._ended = last and not self._ended, self._ended or last
            self._sender.send(*response, flags=_FINAL if last else 0)
        if ends:
            self._on_end()

    def _response(self, pieces: list[Piece]) -> Any:
        tensors = [
            pb_utils.Tensor("text_output", np.array([piece.text.encode() for piece in pieces], np.object_)),
            _tensor("index", tuple(piece.index for piece in pieces)),
            _tensor("finish_reason", tuple(piece.finish_reason for piece in pieces)),
        ]
        if any(piece.logprobs for piece in pieces):
            logprobs = np.array([self._logprobs(piece.logprobs) for piece in pieces], np.object_)
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
