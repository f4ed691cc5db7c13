"""How the door can fail."""

from __future__ import annotations

from reverie.errors import ToolkitError


class DoorError(ToolkitError):
    """The door cannot open, or its new configuration is not one; the message says why and what to do."""
