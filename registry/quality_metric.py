"""Which quality a canary is compared by; apart from `registry.canary`, which takes seconds to import."""

from __future__ import annotations

from enum import Enum


class QualityMetric(str, Enum):
    """Whose recorded rows a language model is measured on, or whether quality is not looked at."""

    stable = "stable"
    canary = "canary"
    none = "none"
