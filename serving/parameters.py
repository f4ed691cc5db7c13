"""What tables of request parameters share: reading JSON, errors in words, and the table in the documentation."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field


class StreamFormat(BaseModel):
    """How the pictures of a stream are sent.

    Attributes:
        format: of the last picture; previews are JPEG. "raw" is the pixels themselves, see the output `shape`.
        preview_size: longer side of a preview at most, in pixels; 0 for the full size.
        provenance: pictures say in their XMP how they were made; raw ones have none.
    """

    format: Literal["png", "jpeg", "webp", "raw"] = "png"
    preview_size: int = Field(default=0, ge=0, le=4096)
    provenance: bool = True


def from_json(value: Any) -> Any:
    """The value itself, or what it says if it is text: requests carry lists and objects as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def describe(error: Any, model: type[BaseModel]) -> str:
    """One pydantic error as: the parameter, its value, what is accepted."""
    name = ".".join(str(part) for part in error["loc"]) or "parameters"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; accepted: {', '.join(sorted(model.model_fields))}"
    if not name:  # of several parameters together
        return error["msg"].removeprefix("Value error, ")
    value = repr(error["input"])
    return f"{name}: {value if len(value) <= 80 else value[:77] + '...'} is not accepted; {error['msg']}"


def markdown_table(model: type[BaseModel]) -> str:
    """The parameters as a Markdown table."""
    rows = ["| parameter | default | accepted | meaning |", "|---|---|---|---|"]
    for name, entry in model.model_json_schema()["properties"].items():
        default = json.dumps(entry.get("default")) if "default" in entry else "none"
        rows.append(f"| `{name}` | {default.replace('null', 'none')} | {_accepted(entry)} | {entry['description']} |")
    return "\n".join(rows) + "\n"


def _accepted(entry: dict[str, Any]) -> str:
    entry = next((e for e in entry.get("anyOf", []) if e.get("type") != "null"), entry)
    if "enum" in entry:
        return ", ".join(entry["enum"])
    names = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true, false",
        "string": "text",
        "array": "list",
        "object": "object",
    }
    bounds = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    limits = [text.format(entry[key]) for key, text in bounds.items() if key in entry]
    limits += [f"at most {entry[key]} entries" for key in ("maxItems", "maxProperties") if key in entry]
    return ", ".join([names[entry["type"]], *limits])
