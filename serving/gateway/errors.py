"""What went wrong as an HTTP status and OpenAI's JSON: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import http
import math
import re
from collections.abc import Mapping
from typing import Any

import grpc
from reverie_client import ReverieError
from starlette.responses import JSONResponse

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a caller who has left; nobody reads it but the log."""
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: CLIENT_CLOSED_REQUEST,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_NOT_LOADED = "unknown model"
"""What Triton says, without a status, of a model that is not loaded."""
_RETRY_STATUSES = (429, 503)
_RETRY_SECONDS = 1
"""Where the server does not say when to come again."""
_PARAMETER = re.compile(r"([a-z_]{1,40})(\.[^:\s]{0,40})?: ")
"""How messages of the models begin that are about a parameter."""


class HttpError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        message: what was wrong, the value, what is accepted.
        parameter: what of the request it is about, if one thing.
        code: a word for programs.
        retry_after: seconds; None where coming again does not help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        parameter: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        message = _written(message)
        super().__init__(message)
        self.status, self.message, self.parameter = status, message, parameter and _written(parameter)
        self.code = code or _CODES.get(status)
        self.retry_after = retry_after

    @classmethod
    def of_call(cls, error: ReverieError) -> HttpError:
        """What Triton answered."""
        status, code = _STATUSES.get(error.code, 500), error.code
        if code is grpc.StatusCode.UNKNOWN and _NOT_LOADED in error.message:
            status, code = 503, grpc.StatusCode.UNAVAILABLE
        found = _PARAMETER.match(error.message) if status == 400 else None
        word = _CODES.get(status, code.name.lower())
        return cls(status, error.message, found[1] if found else None, word, error.retry_after)

    def renamed(self, names: Mapping[str, str]) -> HttpError:
        """The same about what is called otherwise here, by the model's name for it."""
        name = names.get(self.parameter or "")
        if name is None or self.parameter is None:
            return self
        message = name + self.message.removeprefix(self.parameter)
        return HttpError(self.status, message, name, self.code, self.retry_after)

    @classmethod
    def invalid(cls, message: str, parameter: str | None = None) -> HttpError:
        """The caller's mistake: 400."""
        return cls(400, message, parameter, "invalid_argument")

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    def response(self) -> JSONResponse:
        """As an answer; one that did not read its request's body closes the connection, so that the rest is not sent."""
        headers = {"connection": "close"} if self.status in (408, 413, 415) else {}
        if self.status in _RETRY_STATUSES:
            seconds = _RETRY_SECONDS if self.retry_after is None else self.retry_after
            if math.isfinite(seconds):
                headers["retry-after"] = str(math.ceil(seconds))
        return JSONResponse(self.body(), self.status, headers)


def _written(text: str) -> str:
    """What UTF-8 can carry: a form may name its own encoding, and have halves of surrogate pairs in it."""
    return text.encode("utf-8", "replace").decode()


def of_status(status: int, detail: str = "") -> HttpError:
    """The error of an answer that the framework gives by itself: no such path, no such method."""
    phrase = detail or http.HTTPStatus(status).phrase
    return HttpError(status, phrase, code=http.HTTPStatus(status).phrase.lower().replace(" ", "_"))
