"""Parameters of the models, as the client's methods have them: nothing of them is written here again.

Their names, types, defaults and descriptions are those of `AsyncClient`, which tests hold equal to the server's; ranges are
checked by the models themselves, whose messages name what is accepted.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from reverie_client import AsyncClient

from serving.gateway.errors import HttpError

METHODS: dict[str, Callable[..., Any]] = {
    "stylize": AsyncClient.stylize,
    "dream": AsyncClient.dream,
    "transfer": AsyncClient.transfer,
}
"""Of what takes a picture, by its path."""
_NOT_OF_THE_REQUEST = ("self", "timeout")
_LINE = re.compile(r"^ {12}(\w+): (.*(?:\n {16}.*)*)", re.MULTILINE)


@cache
def parameters_of(name: str) -> tuple[str, ...]:
    """Names of the parameters that a method's request may have."""
    found = inspect.signature(METHODS[name]).parameters.values()
    return tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OF_THE_REQUEST)


@cache
def files_of(name: str) -> tuple[str, ...]:
    """Names of the pictures that it may have; the first is needed."""
    found = inspect.signature(METHODS[name]).parameters.values()
    return tuple(p.name for p in found if p.kind is not p.KEYWORD_ONLY and p.name not in _NOT_OF_THE_REQUEST)


def check_names(name: str, given: Mapping[str, Any], others: tuple[str, ...] = ()) -> None:
    """Refuse a parameter that the method does not have.

    Args:
        others: that are accepted too.
    """
    accepted = {*parameters_of(name), *others}
    for parameter in given:
        if parameter not in accepted:
            raise HttpError.invalid(
                f"{parameter[:40]}: unknown parameter; accepted: {', '.join(sorted(accepted))}", parameter[:40]
            )


@cache
def schemas_of(name: str) -> dict[str, dict[str, Any]]:
    """JSON schemas of a method's parameters, with what they mean."""
    method = METHODS[name]
    hints = typing.get_type_hints(method)
    meanings = {found[1]: re.sub(r"\s+", " ", found[2]) for found in _LINE.finditer(method.__doc__ or "")}
    defaults = {p.name: p.default for p in inspect.signature(method).parameters.values()}
    return {
        parameter: {
            **TypeAdapter(hints[parameter]).json_schema(),
            "description": meanings[parameter],
            **({} if defaults[parameter] is None else {"default": defaults[parameter]}),
        }
        for parameter in parameters_of(name)
    }
