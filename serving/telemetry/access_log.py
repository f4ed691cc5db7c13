"""The access log: one line of JSON on stderr for each request that a model has ended, refusals and cancellations included.

It holds who asked, how it went and how long it took; never a prompt, a picture or a key. A line leaves in one call of
`write` and is shorter than a pipe takes at once, so the lines of several processes do not mix.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from typing import Any

from serving.telemetry.model_metrics import RequestMeasurement

_STDERR = 2
_LONGEST_NAME = 128
"""Of a client. Escaped, its characters may be 6 times as many, and a pipe takes 4096 bytes at once."""


class AccessLog:
    """Writes the lines of one process.

    Args:
        file: where to, as a file descriptor.
    """

    def __init__(self, file: int = _STDERR):
        self._file = file

    def arrived(self, request: RequestMeasurement) -> None:
        """A line is written at the end."""

    def finished(self, request: RequestMeasurement, now: float) -> None:
        """Write the line of a request that has just ended; where nobody reads it any more, the request goes on."""
        with contextlib.suppress(OSError):
            os.write(self._file, line(request, now, datetime.datetime.now(datetime.timezone.utc)))


def line(request: RequestMeasurement, now: float, time: datetime.datetime) -> bytes:
    """Return the line of a request.

    Args:
        now: when it ended, by the request's own clock.
        time: the same for people.
    """
    began = request.began or now
    fields: dict[str, Any] = {
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": request.identity.request_id,
        "client": request.identity.client[:_LONGEST_NAME],
        "model": request.metrics.model,
        "version": request.metrics.version,
        "status": request.status,
        "waited_ms": round((began - request.arrived) * 1000, 3),
        "took_ms": round((now - request.arrived) * 1000, 3),
    }
    fields |= {"tokens": request.tokens} if request.tokens else {}
    fields |= {"pixels": request.pixels} if request.pixels else {}
    if request.place:
        fields |= {"trace_id": request.place.trace_id, "span_id": request.place.span_id}
    return json.dumps(fields).encode() + b"\n"
