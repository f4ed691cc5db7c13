"""Errors of serving that are not the caller's fault."""

from __future__ import annotations


class Unavailable(RuntimeError):
    """The request cannot be served now; it may be sent again later."""
