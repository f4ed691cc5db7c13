"""Prompts as token ids that fit a model; texts that do not are refused with what is accepted."""

from __future__ import annotations

import secrets

from language.tokenizer import Tokenizer
from reverie.errors import InputError
from serving.text.parameters import GenerateParameters
from serving.text.request import Task

_MAX_ECHO = 100_000
"""Characters of a truncated prompt that is echoed token by token."""
_MAX_BYTES_A_TOKEN = 256
"""Prompts of more bytes than this for every position are refused unread."""


def task_of(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, positions: int, client: str = "") -> Task:
    """A request as the task that its continuations have in common.

    Raises:
        InputError: the prompt is too long or empty, or a parameter does not fit this model.
    """
    prompt = encode_prompt(text, parameters, tokenizer, positions)
    return Task(
        parameters,
        prompt,
        seed=secrets.randbits(63) if parameters.seed is None else parameters.seed,
        echo=text if parameters.echo else "",
        client=client,
        unseen=_unseen(text, parameters, tokenizer, prompt),
    )


def encode_prompt(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, positions: int) -> list[int]:
    """Token ids of a prompt that fits the model.

    Raises:
        InputError: it is empty where the model needs a word, or too long; or a biased token does not exist.
    """
    room = positions - len(tokenizer.begin)
    size = len(text.encode())
    if size > _MAX_BYTES_A_TOKEN * room:
        if parameters.truncate is None:
            raise InputError(
                f"text_input: {size} bytes; accepted: at most {room} tokens and {_MAX_BYTES_A_TOKEN * room} bytes; "
                "'truncate' keeps the end of a longer prompt"
            )
        # What is cut off here is longer than anything the model could see.
        text = text[-_MAX_BYTES_A_TOKEN * room :]
    tokens = tokenizer.encode(text)
    if parameters.truncate is not None:
        if parameters.truncate > room:
            raise InputError(f"truncate: {parameters.truncate}; accepted: 1 to {room} tokens")
        tokens = tokens[-parameters.truncate :]
    least = max(1 - len(tokenizer.begin), 0)
    if not least <= len(tokens) <= room:
        raise InputError(
            f"text_input: {len(tokens)} tokens; accepted: {least} to {room} tokens; "
            "'truncate' keeps the last tokens of a longer prompt"
        )
    for token in parameters.logit_bias:
        if not 0 <= token < len(tokenizer):
            raise InputError(f"logit_bias: token {token}; accepted: token ids from 0 to {len(tokenizer) - 1}")
    return [*tokenizer.begin, *tokens]


def _unseen(text: str, parameters: GenerateParameters, tokenizer: Tokenizer, prompt: list[int]) -> tuple[int, ...]:
    """Tokens of an echoed text that were cut off before `prompt`, where log-probabilities are wanted."""
    if parameters.truncate is None or parameters.logprobs is None or not parameters.echo:
        return ()
    if len(text) > _MAX_ECHO:
        raise InputError(
            f"text_input: {len(text)} characters; accepted with echo, logprobs and truncate: at most {_MAX_ECHO}"
        )
    tokens = tokenizer.encode(text)
    return tuple(tokens[: len(tokens) - (len(prompt) - len(tokenizer.begin))])
