"""How one row chooses its tokens. Knows nothing about batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SMALLEST = np.float32(1e-15)
"""Smaller temperatures and repetition penalties count as this one: float32 would make them 0, or logits infinite."""


@dataclass(frozen=True)
class SamplingParameters:
    """How one row chooses; names and meanings as in OpenAI's, Hugging Face's and vLLM's interfaces.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: only the k most probable tokens; 0 for all. Tokens as probable as the k-th stay.
        top_p: only the most probable tokens that together reach this share (Holtzman et al. 2020).
        min_p: only tokens at least this share as probable as the most probable one (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or text
            (Keskar et al. 2019, section 4.1).
        frequency_penalty: subtracted once for every time that a token is in the text.
        presence_penalty: subtracted once if a token is in the text.
        logit_bias: added to the logits of these tokens.
        banned: never chosen.
        logprobs: None, or how many of the likeliest tokens to report beside the chosen one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def penalizes(self) -> bool:
        """Whether the logits depend on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
