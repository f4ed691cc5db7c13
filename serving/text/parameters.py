"""The one table of generation parameters: names, defaults, ranges, meanings.

Requests are checked against it and `docs/generate.md` is made from it (`python -m serving.text.parameters`).
Names and ranges are those of OpenAI's completions and of vLLM's SamplingParams.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from language.sampling import SamplingParameters
from serving.parameters import from_json, markdown_table

MAX_STOPS = 16
MAX_STOP_LENGTH = 1000
"""Characters of a stop string."""
MAX_BIASES = 300


class GenerateParameters(BaseModel):
    """What a caller may ask of `generate`; see the fields' descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(
        default=16,
        ge=1,
        le=1_000_000,
        description="Tokens to add at most; the model's context may end the text earlier.",
    )
    temperature: float = Field(
        default=1.0, ge=0, le=2, allow_inf_nan=False,
        description="Divides the logits: below 1 more predictable than the model, above 1 more surprising; 0 takes the most probable token.",
    )  # fmt: skip
    top_k: int = Field(default=0, ge=-1, description="Sample from the k most probable tokens only; 0 or -1 from all.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, allow_inf_nan=False,
        description="Sample from the most probable tokens that together reach this probability.",
    )  # fmt: skip
    min_p: float = Field(
        default=0.0, ge=0, le=1, allow_inf_nan=False,
        description="Sample from tokens at least this share as probable as the most probable one.",
    )  # fmt: skip
    repetition_penalty: float = Field(
        default=1.0, gt=0, le=2, allow_inf_nan=False,
        description="Above 1 makes tokens of the prompt and the text less likely, below 1 more likely.",
    )  # fmt: skip
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, allow_inf_nan=False,
        description="Subtracted from a token's logit for every time it is in the text.",
    )  # fmt: skip
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, allow_inf_nan=False,
        description="Subtracted from a token's logit if it is in the text.",
    )  # fmt: skip
    logit_bias: dict[int, float] = Field(
        default_factory=dict, max_length=MAX_BIASES,
        description="Token ids and what is added to their logits, -100 to 100; a JSON object. Naming the unknown word's id allows it.",
    )  # fmt: skip
    stop: tuple[str, ...] = Field(
        default=(), max_length=MAX_STOPS,
        description=f"The text ends before the first of these strings, each of 1 to {MAX_STOP_LENGTH} characters; a string, or a JSON list of strings.",
    )  # fmt: skip
    seed: int | None = Field(
        default=None, ge=0, lt=2**63,
        description="The same seed gives the same text, whatever else the server does; none draws one.",
    )  # fmt: skip
    n: int = Field(default=1, ge=1, le=128, description="Continuations of the prompt; `index` tells them apart.")
    logprobs: int | None = Field(
        default=None, ge=0, le=20,
        description="Report log-probabilities of the chosen and of so many of the likeliest tokens.",
    )  # fmt: skip
    echo: bool = Field(default=False, description="Put the prompt before the text.")
    stream: bool = Field(default=False, description="Send the text in pieces as it grows; otherwise once, whole.")
    truncate: int | None = Field(
        default=None, ge=1, description="Keep only the last so many tokens of the prompt; none refuses a long prompt."
    )
    ignore_eos: bool = Field(default=False, description="Never end before max_tokens (for measurements).")

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _read_biases(cls, value: Any) -> Any:
        return from_json(value)

    @field_validator("logit_bias")
    @classmethod
    def _check_biases(cls, value: dict[int, float]) -> dict[int, float]:
        for token, bias in value.items():
            if not -100 <= bias <= 100:
                raise ValueError(f"token {token} has bias {bias}; biases should be from -100 to 100")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _read_stops(cls, value: Any) -> Any:
        value = from_json(value) if isinstance(value, str) and value.startswith("[") else value
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _check_stops(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for stop in value:
            if not 0 < len(stop) <= MAX_STOP_LENGTH:
                raise ValueError(f"a stop string has {len(stop)} characters; each should have 1 to {MAX_STOP_LENGTH}")
        return value

    @model_validator(mode="after")
    def _check_greedy(self) -> GenerateParameters:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                f"n is {self.n} with temperature 0; greedy continuations are all the same, so n should be 1"
            )
        return self

    def sampling(self, banned: tuple[int, ...], end: int) -> SamplingParameters:
        """The part that chooses tokens.

        Args:
            banned: tokens that are only sampled if `logit_bias` names them.
            end: the token that ends a text.
        """
        never = tuple(token for token in banned if token not in self.logit_bias)
        return SamplingParameters(
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            banned=(*never, end) if self.ignore_eos else never,
            logprobs=self.logprobs,
        )


if __name__ == "__main__":
    print(markdown_table(GenerateParameters), end="")
