"""Plain REST for pictures: `POST /v1/stylize`, `/v1/dream`, `/v1/transfer`. A picture comes in, a picture goes out."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from reverie_client import AsyncClient, PictureStep, ReverieError
from starlette.requests import Request
from starlette.responses import Response

from serving.gateway import events, tables
from serving.gateway.bodies import fields_of, media_type, read_form, to_bool
from serving.gateway.documentation import picture_body
from serving.gateway.errors import HttpError
from serving.gateway.hang_up import until_hang_up

router = APIRouter()

_RAW = ("image/", "application/octet-stream")
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")}}
}
_SIGNATURES = ((b"\x89PNG\r\n", 0, "image/png"), (b"\xff\xd8", 0, "image/jpeg"), (b"WEBP", 8, "image/webp"))


@dataclass(frozen=True)
class PictureJob:
    """A picture, and what shall be made of it.

    Attributes:
        name: of the client's method; see `tables.METHODS`.
        files: pictures by name; several only where the method takes several.
        parameters: as they came; the model checks them.
        follows: progress is sent as events.

    Raises:
        HttpError: a picture is missing or too many, or a name is unknown.
    """

    name: str
    files: Mapping[str, list[bytes]]
    parameters: Mapping[str, Any]
    follows: bool = False

    def __post_init__(self) -> None:
        accepted = tables.files_of(self.name)
        for name, given in self.files.items():
            if name not in accepted:
                raise HttpError.invalid(f"{name[:40]}: unknown picture; accepted: {', '.join(accepted)}", name[:40])
            if len(given) > 1 and name not in ("style_image", "style_mask"):
                raise HttpError.invalid(f"{name}: {len(given)} pictures; accepted: 1", name)
        for name in (accepted[0], *(["style_image"] if self.name == "transfer" else [])):
            if not self.files.get(name):
                raise HttpError.invalid(f"{name}: missing; accepted: a picture file (PNG, JPEG or WebP)", name)
        tables.check_names(self.name, self.parameters, ("stream",))

    async def stylized(self, client: AsyncClient) -> bytes:
        """The picture that `stylize` makes."""
        return await client.stylize(self.files["image"][0], **tables.as_arguments(self.name, self.parameters))

    def steps(self, client: AsyncClient) -> Any:
        """The stream of a dream's or transfer's steps."""
        image = self.files["image"][0]
        if self.name == "dream":
            return client.dream(image, next(iter(self.files.get("guide_image", [])), None), **self.parameters)
        return client.transfer(
            image, self.files["style_image"], self.files.get("style_mask") or None, **self.parameters
        )


@router.post("/v1/stylize", openapi_extra=picture_body("stylize"), responses=_ANSWER, tags=["Pictures"])
async def stylize(request: Request) -> Response:
    """Restyle a picture with the fast network."""
    job = await _read_job("stylize", request)
    if job.follows:
        raise HttpError.invalid("stream: true; accepted: false, for this takes one step", "stream")
    return picture_response(await answered(request, job.stylized(request.app.state.client)))


@router.post("/v1/dream", openapi_extra=picture_body("dream"), responses=_ANSWER, tags=["Pictures"])
async def dream(request: Request) -> Response:
    """DeepDream on a picture; with `stream` step by step."""
    return await _optimize("dream", request)


@router.post("/v1/transfer", openapi_extra=picture_body("transfer"), responses=_ANSWER, tags=["Pictures"])
async def transfer(request: Request) -> Response:
    """Paint a picture in the style of others by Gatys' optimization; with `stream` step by step."""
    return await _optimize("transfer", request)


async def answered(request: Request, work: Any) -> Any:
    """The result of a call, whose failure is an HTTP error.

    A call that answers once goes on in Triton when its caller leaves; cancelling it can end Triton.
    """
    try:
        return await until_hang_up(request, work)
    except ReverieError as error:
        raise HttpError.of_call(error) from None


async def last_step(job: PictureJob, client: AsyncClient) -> PictureStep:
    """The step with the result."""
    async with job.steps(client) as steps:
        async for step in steps:
            if step.done:
                return step
    raise HttpError(502, "the model ended without a result", code="internal")


def picture_response(data: bytes, step: PictureStep | None = None) -> Response:
    """A picture with its own content type; raw pixels with their shape in a header."""
    headers = {}
    if step and step.stopped:
        headers["x-reverie-stopped"] = step.stopped
    if step and media_type_of(data) == "application/octet-stream":
        headers["x-reverie-shape"] = ",".join(map(str, step.shape))
    return Response(data, media_type=media_type_of(data), headers=headers)


def media_type_of(data: bytes) -> str:
    """Of an encoded picture; octets where it is none."""
    found = (kind for signature, at, kind in _SIGNATURES if data[at : at + len(signature)] == signature)
    return next(found, "application/octet-stream")


async def _optimize(name: str, request: Request) -> Response:
    job, client = await _read_job(name, request), request.app.state.client
    if job.follows:
        return await events.event_response(request, _step_events(job, client))
    # Previews that nobody sees are not made.
    seen = {name: value for name, value in job.parameters.items() if name != "preview_every"}
    last = await answered(request, last_step(PictureJob(name, job.files, seen), client))
    return picture_response(last.image, last)


async def _step_events(job: PictureJob, client: AsyncClient) -> AsyncGenerator[bytes, None]:
    is_begun = False
    try:
        async with job.steps(client) as steps:
            async for step in steps:
                is_begun = True
                yield events.event(_as_json(step), "result" if step.done else "step")
    except ReverieError as error:
        failure = HttpError.of_call(error)
        if not is_begun:
            raise failure from None
        yield events.event(failure.body(), "error")


def _as_json(step: PictureStep) -> dict[str, Any]:
    """The step's fields; the picture, where there is one, in base64 with its type."""
    fields = {name: value for name, value in vars(step).items() if name not in ("image", "shape", "done")}
    if step.image:
        fields["image"] = base64.b64encode(step.image).decode()
        fields["media_type"] = media_type_of(step.image)
    if step.done:
        fields["shape"] = list(step.shape)
    return fields


async def _read_job(name: str, request: Request) -> PictureJob:
    """The pictures and parameters of a request: a form; or a picture as the body, and parameters in the query."""
    query = fields_of(request.query_params.multi_items())
    tables.check_names(name, query, ("stream",))  # Before the body is read.
    kind = media_type(request)
    if kind.startswith(_RAW):
        files, fields = {"image": [await request.body()]}, query
    elif kind == "multipart/form-data":
        form = await read_form(request)
        files, fields = form.files, {**query, **form.fields}
    else:
        raise HttpError(
            415, f"content-type: {kind or 'none'!r}; accepted: image/png, image/jpeg, image/webp, "
            "application/octet-stream, multipart/form-data", "content-type",
        )  # fmt: skip
    streams = fields.pop("stream", None)
    accepts = events.MEDIA_TYPE in request.headers.get("accept", "")
    return PictureJob(name, files, fields, to_bool("stream", streams) if streams is not None else accepts)
