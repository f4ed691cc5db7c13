"""Model `score`: how probable the language model finds a text."""

from __future__ import annotations

import numpy as np
from reverie_client.token_text import to_text

from language.tokenizer import load_tokenizer
from language.windows import context_windows
from reverie.errors import InputError
from serving.python_backend.base import UnaryModel
from serving.python_backend.fair_share import FairShareScheduler
from serving.python_backend.pinned_model import PinnedModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Outputs

MAX_TOKENS = 4096
_MAX_BYTES = 64 * MAX_TOKENS


class TritonPythonModel(UnaryModel):
    """Input `text_input`; outputs `logprob`, the sum, and `tokens` and `token_logprobs`, one entry a scored token.

    Tokens are text, see `reverie_client.token_text`: HTTP puts them into JSON, which cannot carry a part of a character.

    A word model gives the first word no probability, so it is not scored. A text longer than the model's
    context is scored in windows that overlap by half; long texts take turns, a window each, so that a short one need not
    wait for more than one of their windows.
    """

    def setup(self) -> None:
        self._scheduler = FairShareScheduler(turn_seconds=0.005)
        self._model = PinnedModel(self.args, "language_model")
        self._tokenizer = load_tokenizer(self._model.folder)
        self._positions = _positions(self._model)

    def answer(self, request: InferenceRequest) -> Outputs:
        tokens = [*self._tokenizer.begin, *self._encode(request.text("text_input"))]
        request.measurement.tokens = len(tokens)
        parts = list(context_windows(len(tokens), self._positions, stride=self._positions // 2 + 1))
        if len(parts) == 1:
            return self._outputs(tokens, self._window(request.client, tokens, *parts[0]))
        with self._scheduler.job(request.client, request.raise_if_cancelled) as slot:
            logprobs = []
            for part in parts:
                slot.yield_slot()
                logprobs.append(self._window(request.client, tokens, *part))
        return self._outputs(tokens, np.concatenate(logprobs))

    def threads(self) -> int:
        """One for each place: those that wait for a turn must not keep a short text waiting."""
        return self.admission.total

    def _outputs(self, tokens: list[int], logprobs: np.ndarray) -> Outputs:
        return {
            "logprob": np.array([logprobs.sum(dtype=np.float64)], np.float32),
            "tokens": np.array([self._text(token) for token in tokens[1:]], np.object_),
            "token_logprobs": logprobs,
        }

    def _text(self, token: int) -> bytes:
        return to_text(self._tokenizer.token_bytes(token)).encode()

    def _encode(self, text: str) -> list[int]:
        size, least = len(text.encode()), 2 - len(self._tokenizer.begin)
        if size > _MAX_BYTES:
            raise InputError(f"text_input: {size} bytes; accepted: at most {_MAX_BYTES}")
        tokens = self._tokenizer.encode(text)
        if not least <= len(tokens) <= MAX_TOKENS:
            raise InputError(f"text_input: {len(tokens)} tokens; accepted: {least} to {MAX_TOKENS}")
        return tokens

    def _window(self, client: str, tokens: list[int], start: int, end: int, first: int) -> np.ndarray:
        """Log-probabilities of `tokens[first:end]`, each seen after those from `start` on."""
        feed = {"token_ids": np.array([tokens[start:end]], np.int32)}
        logprobs, _ = self._model(feed, "token_logprobs", client)
        return logprobs[0, first - start - 1 :]


def _positions(model: PinnedModel) -> int:
    """Tokens that the model sees at once."""
    from serving.text.decoder import positions_of

    return positions_of(model.folder)
