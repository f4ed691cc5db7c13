"""Who calls: what of a request's headers goes on to Triton, and the id that the request has on its way there and back."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import urlsplit

from reverie_client import headers, hosts
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.door.limits import HEADER as LIMITS
from serving.door.limits import CallerLimits
from serving.gateway.errors import HttpError, of_status
from serving.telemetry import logs
from serving.telemetry.identity import TraceParent

log = logging.getLogger("reverie")

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_KEY = re.compile("[!-~]([ -~]*[!-~])?")
"""What gRPC's metadata carry unchanged."""
_LONGEST_KEY = 4096
_BEARER = re.compile("bearer +(.+)", re.IGNORECASE)

_metadata: ContextVar[Mapping[str, str]] = ContextVar("metadata of the caller's request", default=MappingProxyType({}))
_UNLIMITED = CallerLimits()
_limits: ContextVar[CallerLimits] = ContextVar("limits of the caller of the request", default=_UNLIMITED)


def call_metadata() -> Mapping[str, str]:
    """What goes on to Triton with each call of the request that is being answered."""
    return _metadata.get()


def caller_limits() -> CallerLimits:
    """What the caller of the request that is being answered may, as the door says; nothing is limited without one."""
    return _limits.get()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Ask in nobody's name what anybody may: it counts as no call of the caller's."""
    token = _metadata.set(MappingProxyType({}))
    try:
        yield
    finally:
        _metadata.reset(token)


class PassOnCaller:
    """Middleware: keeps the caller's key, name and request id for `call_metadata`, and returns the id.

    It also answers where all else has failed, so that the caller has the id with which our mistake stands in the log.

    Args:
        origins: of web pages that may call; a browser says whose page it is. Others than these and the gateway's own are
            refused, whatever they send: a page of anybody must not set the machine of its reader to work.
        has_door: whether the door alone sends requests, with the caller's limits.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...] = (), has_door: bool = False):
        self._app, self._origins, self._has_door = app, origins, has_door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent, is_begun = Headers(scope=scope), False
        request_id = _request_id(sent)

        async def send_with_id(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            self._check_origin(sent)
            _metadata.set(_forwarded(sent) | self._limits(sent) | _trace(sent) | {REQUEST_ID: request_id})
            await self._app(scope, receive, send_with_id)
        except HttpError as error:
            await error.response()(scope, receive, send_with_id)
        except Exception as failure:
            said = logs.without_messages(failure)
            log.error("request %s, %s %s, failed\n%s", request_id, scope["method"], scope["path"], said)
            if is_begun:
                raise  # The connection is closed: the caller is not to take what he has for all.
            await of_status(500, "the gateway failed; its log says how").response()(scope, receive, send_with_id)

    def _limits(self, sent: Headers) -> dict[str, str]:
        """What the door says of the caller, to be said again; it has measured the body, which is another one over gRPC."""
        if not self._has_door:
            return {}
        limits = replace(CallerLimits.from_metadata(sent), body_mib=0)
        _limits.set(limits)
        return {LIMITS: limits.header()}

    def _check_origin(self, sent: Headers) -> None:
        origin = sent.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins or _is_own(origin, sent.get("host", "")):
            return
        raise HttpError(403, f"origin {origin!r} may not call; accepted: {', '.join(self._origins) or 'none but ours'}")


def _is_own(origin: str, host: str) -> bool:
    """Whether it is a page of the gateway, on this machine. Under another name it could be anybody's who made that name
    mean this machine for a moment; `origins` lists such a name."""
    try:
        parts = urlsplit(origin)
        return parts.netloc == host and hosts.is_loopback(parts.hostname or "")
    except ValueError:
        return False


def _request_id(sent: Headers) -> str:
    """The caller's, if a log can take it; else a new one."""
    found = sent.get(REQUEST_ID, "")
    return found if _REQUEST_ID.fullmatch(found) else uuid.uuid4().hex


def _trace(sent: Headers) -> dict[str, str]:
    """Where in a trace the caller is, if he says it."""
    place = TraceParent.read(sent.get(headers.TRACE_PARENT, ""))
    return {headers.TRACE_PARENT: str(place)} if place else {}


def _forwarded(sent: Headers) -> dict[str, str]:
    """The caller's key and name; the door has checked the first, and set the second where there is one.

    A key after "Bearer" goes on as Triton's own API key too: without the door that is who checks it.

    Raises:
        HttpError: gRPC could not carry them.
    """
    api_key = headers.GRPC_RESTRICTED_PREFIX + headers.API_KEY
    names = {"authorization": "authorization", headers.API_KEY: api_key, headers.CLIENT: headers.CLIENT}
    found = {theirs: sent[ours] for ours, theirs in names.items() if sent.get(ours)}
    if bearer := _BEARER.fullmatch(found.get("authorization", "")):
        found.setdefault(api_key, bearer[1])
    for name, value in found.items():
        if len(value) > _LONGEST_KEY or not _KEY.fullmatch(value):
            raise HttpError(
                401, f"{name.removeprefix(headers.GRPC_RESTRICTED_PREFIX)}: {len(value)} characters that no key has; "
                f"accepted: up to {_LONGEST_KEY} printable ASCII characters",
            )  # fmt: skip
    return found
