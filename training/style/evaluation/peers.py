"""What other networks reach, measured as `evaluate` measures ours: points beside our curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A published network in one style; its errors are those of the plot's axes (see `evaluate`)."""

    name: str
    style: str
    content_error: float
    style_error: float


PEERS = (
    Peer("fast-style-transfer (2016)", "wave", content_error=0.90, style_error=0.143),
    Peer("fast-style-transfer (2016)", "the_scream", content_error=0.58, style_error=0.217),
)
"""The published weights of lengstrom/fast-style-transfer (Johnson et al. 2016 with instance normalization, 1.68 million
parameters, a network a style) on twelve photographs of 512 pixels; neither they nor their pictures are here.
"""
