"""What the repository ships, for tests that call it."""

from __future__ import annotations

from pathlib import Path

from registry.repository import Repository
from serving.style.table import StyleTable
from serving.triton.server import PROJECT


def newest(model: str) -> Path:
    """The folder of a model's newest version."""
    shipped = Repository(PROJECT / "model_repository")
    return shipped.folder(model, shipped.versions(model)[-1])


TABLE = StyleTable.read(newest("style"))
STYLES = list(TABLE.names)
STYLE_INPUT, FIRST_STYLE = TABLE.input, TABLE.rows[:1]
"""What the network takes beside the picture, by name."""
