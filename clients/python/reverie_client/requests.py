"""Arguments of a call as the request that travels. Knows nothing of connections; both clients build theirs here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from reverie_client.messages import bytes_tensor, to_bytes, to_floats, to_list, to_request, to_utf8

_BYTES = (bytes, bytearray, memoryview)
_OF_THE_CALL = frozenset({"timeout", "style_vector"})
"""Keywords that are no parameters of the request: they are the call's own, or travel as tensors."""


def defaults_of(method: Callable[..., Any]) -> dict[str, Any]:
    """The request's parameters that a method of the client takes, and what they are where they are not given.

    Its keyword-only arguments are these, but for `_OF_THE_CALL`.
    """
    parameters = inspect.signature(method).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {name: default for name, default in found.items() if name not in _OF_THE_CALL}


def given(defaults: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The request parameters among a method's arguments that say something.

    Left out is None, and what is the default: a server has the same one, or a recipe decides.

    Args:
        defaults: of the method's request parameters, see `defaults_of`.
        arguments: all of them by name, as `locals()` gives them at the method's beginning.
    """
    return {name: arguments[name] for name in defaults if not _says_nothing(arguments[name], defaults[name])}


def _says_nothing(value: Any, default: Any) -> bool:
    """Only of the default's own type: an array cannot be compared, and 1 is not True."""
    return value is None or (type(value) is type(default) and value == default)


def stylize(image: bytes, style_vector: Any, parameters: Mapping[str, Any]) -> service_pb2.ModelInferRequest:
    """A request to `stylize`.

    Raises:
        ParameterError: something cannot be sent; so do the other functions.
    """
    inputs = {"image": bytes_tensor(to_bytes("image", image))}
    if style_vector is not None:
        inputs["style_vector"] = to_floats("style_vector", style_vector)
    request = to_request("stylize", inputs, parameters)
    request.outputs.add(name="stylized")
    return request


def styles() -> service_pb2.ModelInferRequest:
    """A request to `stylize` for the names of its styles; the picture is none."""
    request = to_request("stylize", {"image": bytes_tensor(b"")}, {})
    request.outputs.add(name="styles")
    return request


def generate(prompt: str, parameters: Mapping[str, Any]) -> service_pb2.ModelInferRequest:
    """A request to `generate`; `stop` travels as a tensor. In pieces, where the caller does not say."""
    inputs = {"text_input": bytes_tensor(to_utf8("prompt", prompt))}
    if stops := to_list(parameters.get("stop"), str):
        inputs["stop"] = np.array([to_utf8("stop", stop) for stop in stops], np.object_)
    others = {name: value for name, value in parameters.items() if name != "stop"}
    return to_request("generate", inputs, {"stream": True, **others})


def score(text: str) -> service_pb2.ModelInferRequest:
    """A request to `score`."""
    return to_request("score", {"text_input": bytes_tensor(to_utf8("text", text))}, {})


def dream(image: bytes, guide_image: bytes | None, parameters: Mapping[str, Any]) -> service_pb2.ModelInferRequest:
    """A request to `deepdream`; an empty guide is none."""
    inputs = {"image": bytes_tensor(to_bytes("image", image))}
    if guide := to_bytes("guide_image", b"" if guide_image is None else guide_image):
        inputs["guide_image"] = bytes_tensor(guide)
    return to_request("deepdream", inputs, parameters)


def transfer(
    image: bytes, style_image: Any, style_mask: Any, parameters: Mapping[str, Any]
) -> service_pb2.ModelInferRequest:
    """A request to `style_transfer`; one style image or several, and as many masks or none."""
    files = {"style_image": to_list(style_image, _BYTES), "style_mask": to_list(style_mask, _BYTES)}
    inputs = {"image": bytes_tensor(to_bytes("image", image))}
    for name, values in files.items():
        if values or name == "style_image":
            inputs[name] = np.array([to_bytes(name, value) for value in values], np.object_)
    return to_request("style_transfer", inputs, parameters)
