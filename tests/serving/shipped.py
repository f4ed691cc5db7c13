"""What the repository ships, for tests that call it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from serving.triton.server import PROJECT


def newest(model: str) -> Path:
    """The folder of a model's newest version."""
    return max((PROJECT / "model_repository" / model).glob("[0-9]*"), key=lambda path: int(path.name))


STYLES: list[str] = json.loads((newest("style") / "styles.json").read_text())
WEIGHTS = np.eye(1, len(STYLES), dtype=np.float32)
"""Of the first style."""
