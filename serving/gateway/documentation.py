"""What /docs shows: how bodies are described in OpenAPI, and the page, whose files are all served here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.responses import HTMLResponse

from serving.gateway import tables

_FILES = "/docs-files"
_PICTURE = {"type": "string", "format": "binary"}
_REFERENCE = "#/$defs/"
_POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'"
"""The browser itself sees to it that the page asks nobody else for anything."""

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The page on which a person can try things."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Reverie",
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # Else the page of a public host is checked by swagger.io.
    )
    page.headers["content-security-policy"] = _POLICY
    return page


def add_files(app: FastAPI) -> None:
    """Serve Swagger UI's own files."""
    folder = Path(fastapi_offline.__file__).parent / "static"
    app.mount(_FILES, StaticFiles(directory=folder), name="docs-files")


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A body in JSON, described by its model."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _body({"application/json": {"schema": _inlined(schema, definitions)}})


def picture_body(name: str) -> dict[str, Any]:
    """A form with the pictures and parameters of a method of `tables.METHODS`, or its picture alone."""
    first, *others = tables.files_of(name)
    several = {"type": "array", "items": _PICTURE}
    files = {first: _PICTURE, **{other: _PICTURE if other == "guide_image" else several for other in others}}
    needed = [first, "style_image"] if "style_image" in others else [first]
    form = {**form_schema(name, files), "required": needed}
    form["properties"]["stream"] = {"type": "boolean", "description": "Progress as server-sent events."}
    content = {"multipart/form-data": {"schema": form}}
    if "style_image" not in others:
        content["application/octet-stream"] = {"schema": _PICTURE}
    return _body(content)


def form_schema(name: str, files: dict[str, Any]) -> dict[str, Any]:
    """An object of files and of the parameters of a method."""
    return {"type": "object", "properties": {**files, **tables.schemas_of(name)}}


def form_body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """A form."""
    return _body(
        {"multipart/form-data": {"schema": {"type": "object", "properties": properties, "required": required}}}
    )


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.removeprefix(_REFERENCE)], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
