"""Keywords of the client's methods are the server's parameters: names, types, defaults; each with a line of its own."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from reverie_client import AsyncClient, Client, requests
from reverie_client.messages import plain
from reverie_client.settings import Settings

from serving import cli
from serving.parameters import StreamFormat
from serving.style.parameters import StylizeParameters
from serving.text.parameters import GenerateParameters
from synthesis.deepdream import DeepDreamParameters
from synthesis.gatys import GatysParameters


def fields(*models: type[BaseModel]) -> dict[str, Any]:
    return {name: field for model in models for name, field in model.model_fields.items()}


SERVER = {
    "stylize": fields(StylizeParameters),
    "generate": fields(GenerateParameters),
    "dream": fields(DeepDreamParameters, StreamFormat),
    "transfer": fields(GatysParameters, StreamFormat),
}
RECIPES = {"dream": DeepDreamParameters.RECIPES, "transfer": GatysParameters.RECIPES}
OWN_DEFAULTS = {("generate", "stream"): True}
"""Where the client's default is its own, on purpose."""
METHODS = ("stylize", "generate", "score", "dream", "transfer", "styles", "infer", "models", "health")


def keywords(method: str, kind: type = Client) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(getattr(kind, method)).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("timeout", "style_vector")}


def by_recipe(method: str, name: str) -> bool:
    return any(name in values for values in RECIPES.get(method, {}).values())


def kinds(annotation: Any) -> set[Any]:
    """What may be given, in Python's plain types: None, bool, int, float, str, list, dict, and words of a Literal."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    if origin is Literal:
        return set(get_args(annotation))
    if origin in (dict, Mapping):
        return {dict}
    if origin in (tuple, list, Sequence):
        return {list}
    return {annotation}


@pytest.mark.parametrize("method", SERVER)
def test_every_parameter_of_the_server_is_a_keyword_and_no_other(method):
    assert keywords(method).keys() == SERVER[method].keys()


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, of in SERVER.items() for n in of])
def test_a_keyword_s_default_is_the_server_s_or_none_where_a_recipe_decides(method, name):
    default, field = keywords(method)[name].default, SERVER[method][name]
    if by_recipe(method, name):
        assert default is None
    elif (method, name) in OWN_DEFAULTS:
        assert default == OWN_DEFAULTS[method, name]
    else:
        server_s = field.get_default(call_default_factory=True)
        assert default == server_s or (default is None and server_s in ({}, (), None))
        assert type(default) in (type(server_s), type(None))


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, of in SERVER.items() for n in of])
def test_a_keyword_s_type_is_the_server_s(method, name):
    hints = typing.get_type_hints(getattr(Client, method))
    ours, server_s = kinds(hints[name]), kinds(SERVER[method][name].annotation)
    optional = {type(None)} if keywords(method)[name].default is None else set()
    # The server reads a list or a mapping from text, too: layers and weights as the command line takes them.
    text = {str} if server_s & {dict, list} else set()
    assert server_s | optional <= ours <= server_s | optional | text


@pytest.mark.parametrize("method", METHODS)
def test_every_keyword_has_a_line_of_its_own_in_the_documentation(method):
    text = inspect.getdoc(getattr(Client, method)) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    documented = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    named = [n for n in inspect.signature(getattr(Client, method)).parameters if n not in ("self",)]
    assert documented == named or method in ("styles", "models", "health")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_no_method_takes_what_it_does_not_name(method, kind):
    taken = {p.kind for p in inspect.signature(getattr(kind, method)).parameters.values()}
    assert not taken & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


@pytest.mark.parametrize("method", SERVER)
def test_a_call_with_defaults_sends_no_parameters(method):
    defaults = requests.defaults_of(getattr(Client, method))
    assert requests.given(defaults, defaults) == {}
    if method == "generate":  # Its own default is sent by the request itself.
        assert plain("stream", requests.generate("x", {}).parameters["stream"].bool_param) is True


def test_what_is_given_is_sent_but_for_none_and_the_default():
    defaults = requests.defaults_of(Client.dream)
    given = requests.given(defaults, {**defaults, "step": 5.0, "jitter": 0, "strength": 1.0, "size": None})
    assert given == {"step": 5.0, "jitter": 0}


def test_a_value_that_only_equals_the_default_is_sent_as_it_is():
    defaults = requests.defaults_of(Client.generate)
    given = requests.given(defaults, {**defaults, "n": True, "max_tokens": 16.0})
    assert {name: type(value) for name, value in given.items()} == {"n": bool, "max_tokens": float}


def test_a_stream_that_is_not_wanted_in_pieces_says_so():
    assert requests.generate("x", {"stream": False}).parameters["stream"].bool_param is False


def test_the_client_s_own_settings_are_the_same_in_both():
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert Settings("localhost:1", retry=None).retry is None


COMMANDS = {command.__name__: command for command in (cli.stylize, cli.generate, cli.dream, cli.transfer)}
NOT_OF_THE_REQUEST = {
    "stylize": {"source", "output", "smooth", "fps", "style_file", "address"},
    "generate": {"prompt", "address"},
    "dream": {"picture", "output", "guide", "video", "address"},
    "transfer": {"picture", "style_pictures", "output", "mask", "video", "address"},
}
OTHER_NAMES = {"save_every": "preview_every"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_options_have_the_defaults_of_the_call(name):
    ours, calls = inspect.signature(COMMANDS[name]).parameters, keywords(name)
    options = {OTHER_NAMES.get(n, n): p.default for n, p in ours.items() if n not in NOT_OF_THE_REQUEST[name]}
    assert options.keys() <= calls.keys()
    for option, default in options.items():
        # An option that takes text for a list or a mapping has none by being empty.
        assert (default or None) == (calls[option].default or None), option
        assert type(default) is type(calls[option].default) or default in ("", None), option
