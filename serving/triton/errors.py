"""How starting the embedded Triton can fail."""

from __future__ import annotations

from reverie.errors import ToolkitError


class ServerError(ToolkitError):
    """Triton cannot start, or ended by itself; the message says why and what to do."""


class TritonCrashed(ServerError):
    """A signal ended Triton while it started: its own abort, and no model's fault."""


class StartInterrupted(ServerError):
    """Somebody wants the server to end before it was ready."""
