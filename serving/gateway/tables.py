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
from typing import Any, Union

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import from_json
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


def as_arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a form or a query says, as the method takes it: a vector is a list of numbers, all else is as it came.

    Raises:
        HttpError: a vector is not JSON.
    """
    hints = typing.get_type_hints(METHODS[name])
    return {
        parameter: _vector(parameter, value) if np.ndarray in typing.get_args(hints[parameter]) else value
        for parameter, value in given.items()
    }


def _vector(name: str, value: Any) -> Any:
    try:
        return from_json(value) if isinstance(value, str) else value
    except ValueError:
        raise HttpError.invalid(f"{name}: {value[:40]!r}; accepted: a list of numbers, [0.1, 0.2, ...]", name) from None


def _in_json(hint: Any) -> Any:
    """The type, without the array that JSON has not."""
    kept = tuple(kind for kind in typing.get_args(hint) if kind is not np.ndarray)
    return Union[kept] if np.ndarray in typing.get_args(hint) else hint  # noqa: UP007  # Of kinds in a tuple.


@cache
def schemas_of(name: str) -> dict[str, dict[str, Any]]:
    """JSON schemas of a method's parameters, with what they mean."""
    method = METHODS[name]
    hints = typing.get_type_hints(method)
    meanings = {found[1]: re.sub(r"\s+", " ", found[2]) for found in _LINE.finditer(method.__doc__ or "")}
    defaults = {p.name: p.default for p in inspect.signature(method).parameters.values()}
    return {
        parameter: {
            **TypeAdapter(_in_json(hints[parameter])).json_schema(),
            "description": meanings[parameter],
            **({} if defaults[parameter] is None else {"default": defaults[parameter]}),
        }
        for parameter in parameters_of(name)
    }
