"""Which quality a canary is compared by; apart from `registry.canary`, which takes seconds to import."""

from __future__ import annotations

from enum import Enum


class Measure(str, Enum):
    """Whose recorded rows a language model is measured on, or whether the task's measure is looked at."""

    stable = "stable"
    canary = "canary"
    none = "none"
