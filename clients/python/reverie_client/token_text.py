"""Tokens as text, for answers in JSON: a token can be part of a character, and then its bytes are not UTF-8.

The form is OpenAI's: such a token is written as "bytes:" and its bytes in hexadecimal, `bytes:\\xc3`.
"""

from __future__ import annotations

import re

_PREFIX = "bytes:"
_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


def to_text(token: bytes) -> str:
    """A token as text.

    Example:
        >>> to_text(b" caf"), to_text(b"\\xc3")
        (' caf', 'bytes:\\\\xc3')
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return _as_bytes(token)
    # A token that reads like this form is written in it, so that it can be told from one.
    return _as_bytes(token) if _BYTES.fullmatch(text) else text


def to_bytes(text: str) -> bytes:
    """The token of which `to_text` made `text`."""
    found = _BYTES.fullmatch(text)
    return bytes.fromhex(found[1].replace(r"\x", "")) if found else text.encode()


def _as_bytes(token: bytes) -> str:
    return _PREFIX + "".join(f"\\x{byte:02x}" for byte in token)
