"""Multipart forms as a browser sends them."""

from __future__ import annotations

BOUNDARY = "a-boundary-that-no-picture-has"


def multipart(parts: list[tuple[str, bytes | str]]) -> tuple[bytes, str]:
    """A body and its content type; bytes are files."""
    written = b""
    for name, value in parts:
        file = '; filename="file.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        written += head.encode() + content + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"
