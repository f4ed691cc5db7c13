"""What there is, and how the server is: models, styles, the score of a text, health."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from reverie_client import AsyncClient, ReverieError
from reverie_client.token_text import to_text
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tritonclient.grpc import service_pb2

from serving.gateway.bodies import read_json
from serving.gateway.callers import as_nobody, caller_limits
from serving.gateway.documentation import json_body
from serving.gateway.errors import HttpError
from serving.gateway.pictures import answered
from serving.parameters import describe

router = APIRouter()

MODELS = ("generate", "score", "stylize", "deepdream", "style_transfer")
"""That callers name."""
_OWNER = "reverie"
_NAMES = {"text_input": "text"}


class ScoreRequest(BaseModel):
    """A text to be scored."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="What is scored.")


@router.get("/v1/models", tags=["OpenAI"])
async def models(request: Request) -> dict[str, Any]:
    """The models that are ready, of those that the caller's key is for."""
    names = await _ready(request.app.state.client)
    return {"object": "list", "data": [_model(name, request) for name in names]}


@router.get("/v1/models/{name}", tags=["OpenAI"])
async def model(name: str, request: Request) -> dict[str, Any]:
    """One of them."""
    names = await _ready(request.app.state.client)
    if name not in names:
        accepted = ", ".join(names) or "none now"
        raise HttpError(404, f"model: {name[:80]!r}; there are: {accepted}", "model", "model_not_found")
    return _model(name, request)


@router.get("/v1/styles", tags=["Pictures"])
async def styles(request: Request) -> dict[str, Any]:
    """The styles that stylize knows; the first is its default."""
    names = await answered(request, request.app.state.client.styles())
    return {"styles": names, "default": names[0]}


@router.post("/v1/score", openapi_extra=json_body(ScoreRequest), tags=["Text"])
async def score(request: Request) -> dict[str, Any]:
    """How probable a text is under the language model: natural logarithms, of the text and of each scored token."""
    try:
        asked = ScoreRequest.model_validate(await read_json(request))
    except ValidationError as error:
        raise HttpError.invalid("; ".join(describe(e, ScoreRequest) for e in error.errors()[:10])) from None
    try:
        found = await answered(request, request.app.state.client.score(asked.text))
    except HttpError as error:
        raise error.renamed(_NAMES) from None
    return {
        "logprob": found.logprob,
        "tokens": [to_text(token) for token in found.tokens],
        "token_logprobs": found.token_logprobs,
    }


@router.get("/healthz", tags=["Health"])
async def healthz() -> dict[str, str]:
    """The gateway answers."""
    return {"status": "alive"}


@router.get("/readyz", tags=["Health"])
async def readyz(request: Request) -> Response:
    """Whether Triton answers and has all its models: 200, else 503."""
    is_ready = await request.app.state.client.ready()
    return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)


def _model(name: str, request: Request) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": request.app.state.started_at, "owned_by": _OWNER}


async def _ready(client: AsyncClient) -> list[str]:
    async def is_ready(name: str) -> bool:
        return (await client.admin.call("ModelReady", service_pb2.ModelReadyRequest(name=name), 10)).ready

    names = [name for name in MODELS if name in (caller_limits().models or MODELS)]
    try:
        with as_nobody():
            answers = await asyncio.gather(*(is_ready(name) for name in names))
    except ReverieError as error:
        raise HttpError.of_call(error) from None
    return [name for name, answer in zip(names, answers, strict=True) if answer]
