"""What the repository ships, for tests that call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from registry.repository import Repository
from serving.triton.server import PROJECT


def newest(model: str) -> Path:
    """The folder of a model's newest version."""
    shipped = Repository(PROJECT / "model_repository")
    return shipped.folder(model, shipped.versions(model)[-1])


STYLES: list[str] = json.loads((newest("style") / "styles.json").read_text())
WEIGHTS = np.eye(1, len(STYLES), dtype=np.float32)
"""Of the first style."""
