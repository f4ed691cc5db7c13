"""The one table of stylize's parameters: names, defaults, ranges, meanings.

Requests are checked against it and `docs/stylize.md` is made from it (`python -m serving.style.parameters`).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from imaging import images
from serving.parameters import from_json, markdown_table


class StylizeParameters(BaseModel):
    """What a caller may ask of `stylize`; see the fields' descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: str = Field(default="", description="Name of a style; empty takes the model's first.")
    styles: dict[str, float] = Field(
        default_factory=dict, max_length=256,
        description="A blend: names of styles and their weights, finite, from 0, not all 0; they are divided by their sum. A JSON object; not together with `style`.",
    )  # fmt: skip
    strength: float = Field(
        default=1.0, ge=0, le=1, allow_inf_nan=False,
        description="From the photograph, 0, to the whole style, 1: photograph + strength * (stylized - photograph).",
    )  # fmt: skip
    preserve_colors: bool = Field(
        default=False, description="Take only the lightness from the painting; the colors stay the photograph's."
    )
    format: Literal["same", "png", "jpeg", "webp"] = Field(
        default="same",
        description="Of the result; same is the photograph's own. jpeg has no transparency: the picture is put on white.",
    )
    quality: int = Field(default=92, ge=1, le=100, description="Of jpeg and webp.")
    size: int = Field(
        default=1024, ge=images.MIN_SIDE, le=images.MAX_SIDE,
        description="The photograph is shrunk until its longer side has at most so many pixels.",
    )  # fmt: skip
    detail: float = Field(
        default=1.0, ge=1, le=2, allow_inf_nan=False,
        description="The photograph is restyled at so many times that size, at most 8192 pixels, and brought back: finer strokes, in which faces and other small things survive; for up to detail * detail times the work.",
    )  # fmt: skip
    style_network: str = Field(
        default="",
        description="Of a `style_vector` that comes with the request: the network that it was made for; where another one is served, the request is refused.",
    )
    provenance: bool = Field(
        default=True, description="The result says in its XMP how it was made; see docs/provenance.md."
    )

    @field_validator("styles", mode="before")
    @classmethod
    def _read_styles(cls, value: Any) -> Any:
        return from_json(value)

    @field_validator("styles")
    @classmethod
    def _check_weights(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name!r} has weight {weight}; weights should be finite and at least 0")
        if value and not any(value.values()):
            raise ValueError("all weights are 0; at least one should be above 0")
        return value

    @model_validator(mode="after")
    def _check_one_way(self) -> StylizeParameters:
        if self.style and self.styles:
            raise ValueError(f"style is {self.style!r} and styles names {list(self.styles)}; give one of the two")
        return self

    def shares(self, default: str) -> dict[str, float]:
        """The styles that are asked for by name, and their shares, which are above 0 and have the sum 1.

        Args:
            default: the style of those who name none.
        """
        chosen = self.styles or {self.style or default: 1.0}
        largest = max(chosen.values())  # First divided by it, because a sum can overflow.
        shares = {name: weight / largest for name, weight in chosen.items() if weight}
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}


if __name__ == "__main__":
    print(markdown_table(StylizeParameters), end="")
