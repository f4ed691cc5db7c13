"""Bodies as values: JSON that is bounded in depth, forms that are bounded in parts, pictures as they are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.requests import Request

from serving.gateway.errors import HttpError

MOST_FILES = 20
"""Of one form: a picture, eight paintings with a mask each, and some room to be told what is accepted."""
_MOST_FIELDS = 100
_LONGEST_FIELD = 64 * 1024
_LISTED = re.compile(r"(\w+)\[\]", re.ASCII)
_MAPPED = re.compile(r"(\w+)\[([^\[\]]+)\]", re.ASCII)


async def read_json(request: Request) -> dict[str, Any]:
    """The object in a body of JSON.

    A browser asks the server before it lets a page of somebody else send this type, so no other is read.

    Raises:
        HttpError: it is no JSON object, or nested too deep, or has NaN or half of a surrogate pair.
    """
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise HttpError(415, f"content-type: {kind or 'none'!r}; accepted: application/json", "content-type")
    body = await request.body()
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HttpError.invalid(f"the body is not JSON that is read here: {error}") from None
    if not isinstance(value, dict):
        raise HttpError.invalid(f"the body is a JSON {_kind(value)}; accepted: an object")
    return value


def media_type(request: Request) -> str:
    """What the caller says that the body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Form:
    """A form's files and fields, in the order in which they came.

    Attributes:
        files: by name; `name[]` counts as `name`.
        fields: text by name; several of one name are a list as JSON, and `name[key]` are an object as JSON: so OpenAI's
            clients write them.
    """

    files: dict[str, list[bytes]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(request: Request) -> Form:
    """A multipart form, held on disk while it comes.

    Raises:
        HttpError: it is none, or has too many parts.
    """
    if (kind := media_type(request)) != "multipart/form-data":
        raise HttpError(415, f"content-type: {kind or 'none'!r}; accepted: multipart/form-data", "content-type")
    files: dict[str, list[bytes]] = {}
    texts: list[tuple[str, str]] = []
    async with request.form(max_files=MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            else:
                texts.append((name, value))
    return Form(files, fields_of(texts))


def fields_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Fields of a form or a query; see `Form`. What is empty was left out: so do pages with forms."""
    plain: dict[str, str] = {}
    lists: dict[str, list[Any]] = {}
    mappings: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        if value == "":
            continue
        if found := _MAPPED.fullmatch(name):
            mappings.setdefault(found[1], {})[found[2]] = _number(value)
        elif found := _LISTED.fullmatch(name):
            lists.setdefault(found[1], []).append(_number(value))
        elif name in plain:
            raise HttpError.invalid(f"{name}: given twice; accepted: once", name)
        else:
            plain[name] = value
    collections = {name: json.dumps(value) for name, value in {**lists, **mappings}.items()}
    return plain | collections


def to_bool(name: str, value: Any) -> bool:
    """What a form says by "true" or "1".

    Raises:
        HttpError: it says neither yes nor no.
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    if (found := words.get(str(value).lower())) is None:
        raise HttpError.invalid(f"{name}: {str(value)[:40]!r}; accepted: true, false", name)
    return found


def to_int(name: str, value: str, least: int, most: int) -> int:
    """A whole number of a form.

    Raises:
        HttpError: it is none, or not within the range.
    """
    is_number = value.isascii() and value.isdigit() and len(value) <= 9
    if not is_number or not least <= int(value) <= most:
        raise HttpError.invalid(f"{name}: {value[:40]!r}; accepted: whole numbers from {least} to {most}", name)
    return int(value)


def _number(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False) if len(text) < 40 else text
    except ValueError:
        return text


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")
