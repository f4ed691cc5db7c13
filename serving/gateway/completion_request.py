"""What `POST /v1/completions` takes: OpenAI's request, and the parameters of `generate`.

The parameters are those of `serving.text.parameters`, from which this table is derived; what it adds is OpenAI's.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from serving.gateway.errors import HttpError
from serving.parameters import describe
from serving.text.parameters import GenerateParameters

MODEL = "generate"
MOST_PROMPTS = 128


class StreamOptions(BaseModel):
    """Of a stream: whether and when it says how many tokens there were.

    Attributes:
        include_usage: in a last event of its own.
        continuous_usage_stats: in every event, as vLLM does.
    """

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False


class CompletionRequest(GenerateParameters):
    """OpenAI's parameters beside those of `generate`. What does not apply is refused, what changes nothing is accepted."""

    model: str = Field(description=f"Accepted: {MODEL}.")
    prompt: list[str] | list[list[int]] = Field(
        min_length=1, max_length=MOST_PROMPTS,
        description="A text, a list of texts, token ids, or a list of such.",
    )  # fmt: skip
    stream_options: StreamOptions = Field(default=StreamOptions(), description="Of a stream: `include_usage`.")
    best_of: int | None = Field(default=None, description="As `n`; nothing else is offered.")
    suffix: str = Field(default="", description="Not offered.")
    user: Any = Field(default=None, description="Accepted, and not read; so are the next five.")
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @classmethod
    def read(cls, body: dict[str, Any]) -> CompletionRequest:
        """A request out of its JSON.

        Raises:
            HttpError: a parameter is unknown, of another type or outside its range; the message says what is accepted.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            found = error.errors(include_url=False)
            parameter = str(found[0]["loc"][0]) if found[0]["loc"] else None
            raise HttpError.invalid("; ".join(describe(e, cls) for e in found[:10]), parameter) from None

    @model_validator(mode="before")
    @classmethod
    def _take_openai_forms(cls, body: dict[str, Any]) -> dict[str, Any]:
        """null is as good as not given; a stop string that begins with "[" is not JSON here."""
        given = {name: value for name, value in body.items() if value is not None}
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        return given

    @field_validator("prompt", mode="before")
    @classmethod
    def _list_prompts(cls, value: Any) -> Any:
        """A text or the ids of one are a list of one; validated as they are, so that 1 is no truth value and no text."""
        prompts = [value] if isinstance(value, str) or _are_ids(value) else value
        if not isinstance(prompts, list) or not (
            all(isinstance(p, str) for p in prompts) or all(_are_ids(p) for p in prompts)
        ):
            raise ValueError("accepted: a text, a list of texts, a list of token ids, or a list of such lists")
        return prompts

    @field_validator("suffix")
    @classmethod
    def _refuse_suffix(cls, value: str) -> str:
        if value:
            raise ValueError("this model cannot write what comes before a suffix; leave it out")
        return value

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, info.data.get("n", value)):
            raise ValueError("accepted: the same as n, or left out")
        return value

    def check_model(self) -> None:
        """Refuse another model than there is.

        Raises:
            HttpError: 404, as OpenAI does.
        """
        if self.model != MODEL:
            raise HttpError(
                404, f"model: {self.model[:80]!r} is unknown here; accepted: {MODEL}", "model", "model_not_found"
            )

    def of_generate(self) -> dict[str, Any]:
        """The parameters that were given for `generate`, but for those that the gateway sees to: stream, echo, logprobs."""
        own = GenerateParameters.model_fields.keys() - {"stream", "echo", "logprobs"}
        return {name: getattr(self, name) for name in sorted(own & self.model_fields_set)}


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
