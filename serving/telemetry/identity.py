"""Who a request is, for logs and traces: its id, its client's name and its place in a trace. Knows nothing of Triton.

All of it is what a caller says of itself: it is checked before it is kept, it gets into lines of a log, and nothing is
decided by it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from reverie_client import headers

_TRACEPARENT = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 1


@dataclass(frozen=True)
class TraceParent:
    """A place in a trace, as the header `traceparent` says it (https://www.w3.org/TR/trace-context/).

    Attributes:
        trace_id: 32 hexadecimal digits, not all 0.
        span_id: 16 of them.
        flags: bit 0: the trace is recorded.
    """

    trace_id: str
    span_id: str
    flags: int = 0

    @classmethod
    def read(cls, text: str) -> TraceParent | None:
        """Return what a header says; None where it is none of the format, which then counts as not sent."""
        found = _TRACEPARENT.fullmatch(text)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more) or not (trace_id.strip("0") and span_id.strip("0")):
            return None
        return cls(trace_id, span_id, int(flags, 16))

    def child(self) -> TraceParent:
        """Return a new place below this one."""
        return TraceParent(self.trace_id, os.urandom(8).hex(), self.flags & _SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


@dataclass(frozen=True)
class Identity:
    """Of one request.

    Attributes:
        request_id: printable ASCII without spaces.
        client: its name; "" if nobody says.
        parent: where in a trace its caller is; None if nobody says.
        is_ours: the id was made here, and its caller does not know it.
    """

    request_id: str
    client: str = ""
    parent: TraceParent | None = None
    is_ours: bool = False

    @classmethod
    def of(cls, *ids: str, client: str = "", traceparent: str = "") -> Identity:
        """Return who a request is.

        Args:
            ids: that its caller gave, the most important first. One that no log can take counts as none.
            client, traceparent: as headers say them; "" for none.
        """
        parent = TraceParent.read(traceparent) if traceparent else None
        for said in ids:
            if said and headers.is_request_id(said):
                return cls(said, client, parent)
        return cls(headers.new_request_id(), client, parent, is_ours=True)
