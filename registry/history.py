"""`history.jsonl` of a repository: what was published, promoted, rolled back and pulled, a line each."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_FILE = "history.jsonl"
"""A plain file: Triton takes folders for models, and a file in a model's folder for a change of that model."""


@dataclass(frozen=True)
class History:
    """What became of the versions in the repository at `path`."""

    path: Path

    def record(self, **event: Any) -> None:
        """Append one line, with the time; what it is about has happened, so failing here only warns."""
        line = json.dumps({"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **event}) + "\n"
        try:
            with (self.path / _FILE).open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _log.warning("%s is not in the history: %s", line.strip(), error.strerror)

    def events(self, model: str | None = None) -> list[dict[str, Any]]:
        """The events of `model`, or of all models, oldest first."""
        path = self.path / _FILE
        events = []
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):  # A line that a full disk cut short.
                events.append(json.loads(line))
        return [event for event in events if model in (None, event.get("model"))]
