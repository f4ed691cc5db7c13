"""The gateway as an ASGI application: its routes, and what is around all of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from reverie_client import AsyncClient
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from reverie import __version__
from serving.gateway import about, completions, documentation, image_edits, pictures
from serving.gateway.callers import REQUEST_ID, PassOnCaller, call_metadata
from serving.gateway.errors import HttpError, of_status
from serving.gateway.limits import BoundBodies
from serving.gateway.options import GatewayOptions
from serving.gateway.tokens import StableTokenizer

_DESCRIPTION = (
    "Texts and pictures from a Reverie server. Paths and bodies under OpenAI are those of its API; "
    "errors are in its form everywhere."
)


def connect(address: str, options: GatewayOptions) -> AsyncClient:
    """A client that sends what came with the request that is being answered, and no key of this process.

    It repeats nothing: the caller is told when to come again.
    """
    return AsyncClient(
        address, options.timeout, control_key="", api_key="", name="", retry=None, call_metadata=call_metadata
    )


def create_app(client: AsyncClient, options: GatewayOptions) -> FastAPI:
    """An application that answers with `client`, which it closes at its end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()

    app = FastAPI(
        title="Reverie", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.client, app.state.tokenizer = client, StableTokenizer(options.repository)
    app.state.started_at = int(time.time())
    for module in (completions, image_edits, pictures, about, documentation):
        app.include_router(module.router)
    documentation.add_files(app)
    app.add_exception_handler(HttpError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_status)
    # The last one added is the first to see a request.
    app.add_middleware(BoundBodies, options=options)
    app.add_middleware(PassOnCaller, origins=options.origins, has_door=options.has_door)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=options.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=[REQUEST_ID, "retry-after"],
    )
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error.response()


async def _answer_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = of_status(error.status_code, str(error.detail or "")).response()
    response.headers.update(error.headers or {})
    return response
