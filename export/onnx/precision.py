"""What a style network's convolutions may be computed in. Light to import, for the command line."""

from __future__ import annotations

from enum import Enum


class Precision(str, Enum):
    """The values are what `--precision` takes."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


CPU_DEFAULT = Precision.int8
"""Twice as fast as float32 (benchmarks/results/style.json), with the same objective."""
