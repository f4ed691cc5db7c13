"""From what gRPC and Triton say of a failed call to this package's errors."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import grpc

from reverie_client import credentials, errors
from reverie_client.errors import ReverieError

PUSHBACK, RETRY_AFTER = "grpc-retry-pushback-ms", "retry-after"


def of_call(error: grpc.RpcError) -> ReverieError:
    """The error of a call, without gRPC's call object."""
    call: Any = error
    found = call.trailing_metadata() if hasattr(call, "trailing_metadata") else None
    metadata = {key: value for key, value in found or () if isinstance(value, str)}
    return _of_triton(call.code(), call.details() or "", asked_pause(metadata))


def in_band(text: str) -> ReverieError:
    """An error sent as a stream's message: "INVALID_ARGUMENT: ..."; Triton's own have no status: UNKNOWN."""
    name, _, message = text.partition(": ")
    code = grpc.StatusCode.__members__.get(name)
    return errors.of_status(code, message) if code else _of_triton(grpc.StatusCode.UNKNOWN, text)


def asked_pause(metadata: Mapping[str, str]) -> float | None:
    """The pause that a server asks for, in seconds; infinite if nobody shall come again, None where it asks for none.

    `grpc-retry-pushback-ms` is gRPC's: what is no whole number from 0 means "not again". `retry-after` is HTTP's:
    seconds or a date.
    """
    if (pushback := metadata.get(PUSHBACK)) is not None:
        return int(pushback) / 1000 if _is_whole(pushback) else math.inf
    if (after := metadata.get(RETRY_AFTER)) is not None:
        return float(after) if _is_whole(after) else _until(after)
    return None


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _until(date: str) -> float | None:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _of_triton(code: grpc.StatusCode, message: str, retry_after: float | None = None) -> ReverieError:
    """Triton's own error; the one about a key comes with a status that would make callers try again."""
    return errors.of_status(*(credentials.refusal(message) or (code, message)), retry_after)
