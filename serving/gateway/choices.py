"""From pieces of continuations to OpenAI's choices: text, log-probabilities with offsets, and how many tokens there were."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from reverie_client import TextDelta
from reverie_client.token_text import to_bytes

from serving.gateway.completion_request import CompletionRequest


@dataclass
class Choice:
    """One continuation of one prompt, as far as it has come.

    Attributes:
        index: which of the answer's choices.
        echo: a prompt that is still to be put before the text; the server does so where log-probabilities are wanted.
        reports: whether the caller wants log-probabilities; they are asked for in any case, for their number is that of the
            tokens.
        tokens: so far.
    """

    index: int
    echo: str
    reports: bool
    tokens: int = 0
    _characters: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace"), repr=False
    )

    def add(self, delta: TextDelta) -> dict[str, Any]:
        """What is new, as an entry of `choices`."""
        echo, self.echo = self.echo, ""
        found = delta.logprobs or {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        self.tokens += len(found["tokens"])
        reported = {**found, "text_offset": self._offsets(found["tokens"])} if self.reports else None
        return {
            "index": self.index,
            "text": echo + delta.text,
            "logprobs": reported,
            "finish_reason": delta.finish_reason or None,
        }

    def _offsets(self, tokens: list[str]) -> list[int]:
        """Where each token begins in the text, in characters; a token within a character begins where that does."""
        offsets = []
        for token in tokens:
            offsets.append(self._characters)
            self._characters += len(self._decoder.decode(to_bytes(token)))
        return offsets


class Choices:
    """All choices of an answer: `n` of each prompt, in the order of the prompts.

    Args:
        prompts: as texts.
    """

    def __init__(self, asked: CompletionRequest, prompts: list[str]):
        reports = asked.logprobs is not None
        self._n, self._echoes = asked.n, asked.echo and reports
        self._all = [
            Choice(i * asked.n + k, prompt if asked.echo and not reports else "", reports)
            for i, prompt in enumerate(prompts)
            for k in range(asked.n)
        ]

    def add(self, prompt: int, delta: TextDelta) -> dict[str, Any]:
        """What is new of a continuation of that prompt."""
        return self._all[prompt * self._n + delta.index].add(delta)

    def usage(self, prompt_tokens: list[int] | None) -> dict[str, int] | None:
        """OpenAI's usage so far; None where the prompts' tokens cannot be counted.

        Args:
            prompt_tokens: of each prompt.
        """
        if prompt_tokens is None:
            return None
        echoed = sum(prompt_tokens) * self._n if self._echoes else 0
        completion = max(0, sum(choice.tokens for choice in self._all) - echoed)
        prompt = sum(prompt_tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def ordered(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices by their index."""
    return sorted(entries, key=lambda entry: entry["index"])
