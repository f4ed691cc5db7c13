"""Names of the headers that Reverie's servers and clients know."""

from __future__ import annotations

import math
import os
import re

CONTROL = "reverie-control"
"""The key for loading and unloading models."""
API_KEY = "reverie-api-key"
CLIENT = "reverie-client"
"""Who calls, for the limits of one client; Triton passes it on to models as a parameter."""
TIMEOUT = "reverie-timeout"
"""How long the caller waits for the whole answer, as gRPC writes it ("1500m"); Triton passes it on as it does `CLIENT`. gRPC's
own header it keeps for itself.
"""
REQUEST_ID = "x-request-id"
"""By which a request is found in logs. Triton passes it on as it does `CLIENT`; so it does the next one."""
TRACE_PARENT = "traceparent"
"""Where in a trace the caller is (https://www.w3.org/TR/trace-context/)."""
GRPC_RESTRICTED_PREFIX = "triton-grpc-protocol-"
"""What Triton wants before the name of a key's header over gRPC."""
NOBODY = "reverie-nobody"
"""Its value nobody is told: what asks for it is closed."""
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_DIGITS = 99_999_999
_REQUEST_ID = re.compile("[!-~]{1,128}")


def write_timeout(seconds: float) -> str:
    """Return a duration as gRPC's header `grpc-timeout` has it: at most eight digits and a unit."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds <= _MOST_DIGITS:
        return f"{max(0, milliseconds)}m"
    return f"{min(math.ceil(seconds), _MOST_DIGITS)}S"


def read_timeout(text: str) -> float | None:
    """Return the seconds of a duration that gRPC or `write_timeout` wrote; None for any other text."""
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 8 and unit in _UNITS):
        return None
    return int(digits) * _UNITS[unit]


def new_request_id() -> str:
    """Return an id that no other request has: 32 hexadecimal digits."""
    return os.urandom(16).hex()


def is_request_id(text: str) -> bool:
    """Return whether a request may be called so: 1 to 128 characters of printable ASCII, none of them a space."""
    return _REQUEST_ID.fullmatch(text) is not None
