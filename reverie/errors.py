"""Every exception of the toolkit and the service has one base; four of them travel to callers as gRPC statuses.

The client, which is installed alone, has its own (`reverie_client`).
"""

from __future__ import annotations


class ToolkitError(Exception):
    """What a person can mend; the message says what was wrong, the value, and what is accepted or can be done."""


class InputError(ToolkitError, ValueError):
    """An input that is not accepted: INVALID_ARGUMENT. The message names it, its value and what is accepted."""


class Unavailable(ToolkitError, RuntimeError):
    """The request cannot be served now, and may be sent again later: UNAVAILABLE."""


class Cancelled(ToolkitError):
    """The caller has left, or stopped the work from a callback: CANCELLED."""


class TimedOut(Cancelled):
    """The caller's deadline has passed: DEADLINE_EXCEEDED."""
