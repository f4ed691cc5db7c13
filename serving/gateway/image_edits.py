"""`POST /v1/images/edits` in OpenAI's shape, by the models `stylize`, `deepdream` and `style_transfer`.

With `stream` and `partial_images` the running optimization sends what it has so far.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from reverie_client import AsyncClient, PictureStep, ReverieError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from imaging import images
from reverie.errors import InputError
from serving.gateway import documentation, events, tables
from serving.gateway.bodies import Form, read_form, to_bool, to_int
from serving.gateway.errors import HttpError
from serving.gateway.pictures import PictureJob, answered, last_step, media_type_of

router = APIRouter()

MOST_PARTIALS = 3
"""As OpenAI has it."""
_METHODS = {"stylize": "stylize", "deepdream": "dream", "style_transfer": "transfer"}
"""Of the client, by the model's name."""
_SECOND = {"dream": "guide_image", "transfer": "style_image"}
"""What further pictures are; the first is the one to edit."""
_STEPS = {"dream": ("iterations", 20), "transfer": ("steps", 100)}
"""The parameter that says how many steps there will be at least, and its default."""
_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Pictures have no tokens here."""
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?", re.ASCII)
_ACCEPTED = {
    "n": ("1",),
    "response_format": ("b64_json",),
    "background": ("auto", "opaque"),
    "quality": ("auto", "standard"),
}
"""Parameters of OpenAI's of which only these values apply."""
_NOT_READ = ("user", "moderation")
_OPENAI = ("model", "prompt", "size", "output_format", "output_compression", "partial_images", "stream", *_NOT_READ)
_PICTURE = {"type": "string", "format": "binary"}
_BODY = documentation.form_body(
    {
        "image": _PICTURE,
        "prompt": {"type": "string", "description": "For stylize the name of a style; the others do not read it."},
        "model": {"type": "string", "enum": list(_METHODS), "default": "stylize"},
        "style_image": {"type": "array", "items": _PICTURE, "description": "Of style_transfer."},
        "guide_image": {"type": "string", "format": "binary", "description": "Of deepdream, optional."},
        "size": {"type": "string", "description": "auto, WIDTHxHEIGHT or the longer side alone; proportions stay."},
        "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
        "output_compression": {"type": "integer", "description": "Of stylize's jpeg and webp, 1 to 100."},
        "stream": {"type": "boolean"},
        "partial_images": {"type": "integer", "minimum": 0, "maximum": MOST_PARTIALS},
    },
    ["image"],
)


@dataclass(frozen=True)
class ImageEdit:
    """An edit as it was asked for.

    Attributes:
        streams: the answer shall be events.
        partials: pictures on the way, at most.
        revised_prompt: what was made of the prompt.
    """

    job: PictureJob
    streams: bool
    partials: int
    revised_prompt: str


@router.post("/v1/images/edits", openapi_extra=_BODY, tags=["OpenAI"])
async def edit(request: Request) -> Response:
    """Restyle a picture, dream on it, or paint it in the style of others; parameters of these models are fields too."""
    client: AsyncClient = request.app.state.client
    asked = await _read_edit(await read_form(request), client)
    if asked.streams:
        return await events.event_response(request, _events(asked, client))
    data = await answered(request, _picture(asked.job, client))
    entry = {"b64_json": base64.b64encode(data).decode(), "revised_prompt": asked.revised_prompt}
    return JSONResponse({**_about(data), "data": [entry]})


async def _picture(job: PictureJob, client: AsyncClient) -> bytes:
    return await job.stylized(client) if job.name == "stylize" else (await last_step(job, client)).image


async def _events(asked: ImageEdit, client: AsyncClient) -> AsyncGenerator[bytes, None]:
    is_begun = False
    try:
        async with aclosing(_pictures(asked, client)) as pictures:
            async for name, written in pictures:
                is_begun = True
                yield events.event(written, name)
    except ReverieError as error:
        failure = HttpError.of_call(error)
        if not is_begun:
            raise failure from None
        yield events.event(failure.body(), "error")


async def _pictures(asked: ImageEdit, client: AsyncClient) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Events by name: partial pictures at even distances, and the result."""
    if asked.job.name == "stylize":
        yield _completed(await asked.job.stylized(client))
        return
    sent = 0
    async with asked.job.steps(client) as steps:
        async for step in steps:
            if step.done:
                yield _completed(step.image)
            elif step.image and _is_due(step, sent, asked.partials):
                kind = "image_edit.partial_image"
                yield kind, {**_event(kind, step.image), "partial_image_index": sent}
                sent += 1


def _is_due(step: PictureStep, sent: int, partials: int) -> bool:
    return sent < partials and step.step * (partials + 1) >= (sent + 1) * step.steps


def _completed(data: bytes) -> tuple[str, dict[str, Any]]:
    kind = "image_edit.completed"
    return kind, {**_event(kind, data), "usage": _USAGE}


def _event(kind: str, data: bytes) -> dict[str, Any]:
    about = _about(data)
    created = about.pop("created")
    return {"type": kind, "b64_json": base64.b64encode(data).decode(), "created_at": created, **about}


def _about(data: bytes) -> dict[str, Any]:
    """What OpenAI's answers say of a picture."""
    return {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": media_type_of(data).removeprefix("image/"),
        "quality": "auto",
        "size": _size_of(data),
        "usage": _USAGE,
    }


def _size_of(data: bytes) -> str:
    """A preview may be smaller than what is accepted as a picture."""
    try:
        height, width = images.measure(data)
    except InputError:
        return "auto"
    return f"{width}x{height}"


async def _read_edit(form: Form, client: AsyncClient) -> ImageEdit:
    fields = dict(form.fields)
    model = fields.get("model", "stylize")
    if (name := _METHODS.get(model)) is None:
        accepted = ", ".join(_METHODS)
        raise HttpError(404, f"model: {model[:80]!r} is unknown here; accepted: {accepted}", "model", "model_not_found")
    files = _files(name, form.files)
    for parameter, values in _ACCEPTED.items():
        if (value := fields.pop(parameter, values[0])) not in values:
            raise HttpError.invalid(f"{parameter}: {value[:40]!r}; accepted: {', '.join(values)}", parameter)
    tables.check_names(name, fields, (*_OPENAI, *_ACCEPTED))
    streams = to_bool("stream", fields.pop("stream", "false"))
    partials = to_int("partial_images", fields.pop("partial_images", "0"), 0, MOST_PARTIALS)
    parameters: dict[str, Any] = {field: value for field, value in fields.items() if field not in _OPENAI}
    parameters |= _translated(name, fields)
    if parameters.get("format") == "raw":
        raise HttpError.invalid("format: 'raw'; accepted here: png, jpeg, webp", "format")
    revised = await _revise(name, fields.get("prompt", ""), parameters, client)
    if streams and partials and name in _STEPS:
        parameters["preview_every"] = _preview_every(name, parameters, partials)
    return ImageEdit(PictureJob(name, files, parameters), streams, partials, revised)


def _files(name: str, files: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """The pictures under the client's names: OpenAI's clients send several as `image`, the one to edit first."""
    if "mask" in files:
        raise HttpError.invalid("mask: not offered; accepted: style_mask, of style_transfer", "mask")
    first, *others = files.get("image") or [b""]
    found = {key: value for key, value in files.items() if key != "image"}
    if others and name not in _SECOND:
        raise HttpError.invalid(f"image: {1 + len(others)} pictures; accepted: 1", "image")
    if others:
        found[_SECOND[name]] = others + found.get(_SECOND[name], [])
    return ({"image": [first]} if "image" in files else {}) | found


def _translated(name: str, fields: dict[str, str]) -> dict[str, Any]:
    """The model's parameters of which OpenAI has others."""
    found: dict[str, Any] = {}
    if (size := fields.get("size", "auto")) != "auto":
        if not (sides := _SIZE.fullmatch(size)):
            raise HttpError.invalid(f"size: {size[:40]!r}; accepted: auto, WIDTHxHEIGHT or the longer side", "size")
        found["size"] = max(int(side) for side in sides.groups() if side)
    if output := fields.get("output_format"):
        found["format"] = output
    if compression := fields.get("output_compression"):
        if name != "stylize":
            raise HttpError.invalid("output_compression: accepted with model stylize only", "output_compression")
        found["quality"] = to_int("output_compression", compression, 1, 100)
    return found


async def _revise(name: str, prompt: str, parameters: dict[str, Any], client: AsyncClient) -> str:
    """What the prompt comes to: for stylize the style that it names, which is taken where no field names one."""
    if name != "stylize":
        return ""
    if chosen := [parameters[field] for field in ("style", "styles", "style_vector") if field in parameters]:
        return str(chosen[0])
    try:
        known = await client.styles()
    except ReverieError as error:
        raise HttpError.of_call(error) from None
    said = re.sub(r"[\s_-]+", " ", prompt.lower())
    named = next((style for style in known if style.replace("_", " ") in said), known[0])
    parameters["style"] = named
    return named


def _preview_every(name: str, parameters: dict[str, Any], partials: int) -> int:
    """Often enough for so many; a step that is not due is passed over. What is no number, the model refuses."""
    parameter, default = _STEPS[name]
    given = str(parameters.get(parameter, default))
    steps = int(given) if given.isascii() and given.isdigit() and len(given) < 9 else default
    return max(1, steps // (partials + 1))
