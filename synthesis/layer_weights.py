"""Parameters that are written as text: `name=weight` pairs and lists of numbers, as a request or a command line has them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

LayerWeight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


def parse_layers(value: Any) -> Any:
    """Read `"mixed4=1.0, mixed5=1.5"`, or a JSON object, as a dictionary; anything else is left to be validated.

    Raises:
        ValueError: a part of the text is not `name=weight`.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("{"):
        return _from_json(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not name.strip() or not sign for name, sign, _ in pairs):
        raise ValueError("layers are written as name=weight, separated by commas")
    return {name.strip(): weight for name, _, weight in pairs}


def parse_numbers(value: Any) -> Any:
    """Read `"1, 0.5"` or a JSON list as a list, and a single number as a list of one; the rest is left to be validated."""
    if isinstance(value, str) and value.startswith("["):
        return _from_json(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


LayerWeights = Annotated[dict[str, LayerWeight], BeforeValidator(parse_layers)]
