"""What Triton's errors must not tell."""

from __future__ import annotations

import re

_SHARED_MEMORY = re.compile(
    r"\S*(?:shm|shared_memory)\S*region\S*|/dev/shm/\S*|\S*triton-[0-9a-f]{12}\S*", re.IGNORECASE
)
"""Names that they give away of the memory that Triton's models share with it (CVE-2025-23320)."""


def redacted(text: str) -> str:
    """`text` without names of shared memory."""
    return _SHARED_MEMORY.sub("(a name)", text)
