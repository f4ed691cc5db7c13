"""What a call may fail with: one base, and a class for each gRPC status. Knows nothing of connections.

Example:
    >>> try:                                                # doctest: +SKIP
    ...     client.score("This movie")
    ... except Unavailable:
    ...     print("later")
    ... except ReverieError as error:
    ...     print(error.code.name, error.message)
"""

from __future__ import annotations

from typing import Any

import grpc


class ReverieError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status; INVALID_ARGUMENT for the caller's mistakes, UNAUTHENTICATED for a missing or wrong key,
            UNAVAILABLE where trying again later makes sense, DEADLINE_EXCEEDED, CANCELLED, ...
        message: what was wrong, the value, what is accepted.
        retry_after: seconds that the server asks to wait before the next try, infinite for "not again"; None where it
            does not say.
        request_id: by which the server's logs know the request; "" of what was no request of a model, or never sent.
    """

    request_id = ""

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: float | None = None):
        super().__init__(code, message, retry_after)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class Cancelled(ReverieError):
    """CANCELLED: the server stopped the work, because the caller left or the server ends."""


class Unknown(ReverieError):
    """UNKNOWN: an error of the server without a status."""


class InvalidArgument(ReverieError):
    """INVALID_ARGUMENT: an input is not accepted; the message names it, its value and what is accepted."""


class DeadlineExceeded(ReverieError):
    """DEADLINE_EXCEEDED: no answer within `timeout`."""


class NotFound(ReverieError):
    """NOT_FOUND: there is no such model, version or label."""


class AlreadyExists(ReverieError):
    """ALREADY_EXISTS: what was to be made is there."""


class PermissionDenied(ReverieError):
    """PERMISSION_DENIED: no key opens this."""


class ResourceExhausted(ReverieError):
    """RESOURCE_EXHAUSTED: a message is too large, or a quota is used up."""


class FailedPrecondition(ReverieError):
    """FAILED_PRECONDITION: the server is not in a state for this call."""


class Aborted(ReverieError):
    """ABORTED: another call was in the way."""


class OutOfRange(ReverieError):
    """OUT_OF_RANGE: past the end of what there is."""


class Unimplemented(ReverieError):
    """UNIMPLEMENTED: the server does not know this call; it may be of another kind or version."""


class Internal(ReverieError):
    """INTERNAL: a fault of the server."""


class Unavailable(ReverieError):
    """UNAVAILABLE: the server cannot be reached or is full; trying again later makes sense."""


class DataLoss(ReverieError):
    """DATA_LOSS: data of the server are damaged."""


class Unauthenticated(ReverieError):
    """UNAUTHENTICATED: a key is missing or wrong; the message says which and where it is set."""


class SecurityError(Unauthenticated):
    """A certificate or key cannot be used; found on this side, before any call. The message says which and why."""

    def __init__(self, message: str):
        super().__init__(grpc.StatusCode.UNAUTHENTICATED, message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,)


class ParameterError(InvalidArgument, ValueError):
    """A parameter that cannot be sent, found before any call; the message names it."""

    def __init__(self, message: str):
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,)


_BY_STATUS: dict[grpc.StatusCode, type[ReverieError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNKNOWN: Unknown,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


def of_status(code: grpc.StatusCode, message: str, retry_after: float | None = None) -> ReverieError:
    """The error of the class that belongs to `code`."""
    return _BY_STATUS.get(code, ReverieError)(code, message, retry_after)
