"""The plan of a style transfer: so many steps at each size, from the smallest to the full one.

Knows nothing about losses or networks. `synthesis.gatys` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imaging import images
from synthesis import features

if TYPE_CHECKING:
    from synthesis.gatys import GatysParameters

COARSE_MIN_SIDE = 64
"""The shorter side of the smallest size that "automatic" scales begin with; block5 has 4 cells there."""
COARSE_SHARE, EXACT_SHARE = 0.4, 0.1
"""Of all steps: those at the smaller sizes, and those with all layers in float32 at the end."""


@dataclass(frozen=True)
class Stage:
    """So many steps at one size; the last `exact` of them with all layers in float32, those before in `dtype`."""

    height: int
    width: int
    steps: int
    exact: int
    dtype: str


def plan(height: int, width: int, parameters: GatysParameters) -> list[Stage]:
    """Return the stages from the smallest size to the full one; their steps add up to `parameters.steps`."""
    if parameters.optimizer == "sgd":
        return [Stage(height, width, parameters.steps, parameters.steps, "float32")]
    dtype = features.dtype_of(parameters.precision)
    count = min(parameters.scales or _useful_scales(height, width), parameters.steps)
    coarse = _shares(round(parameters.steps * COARSE_SHARE), count - 1)
    small = [
        Stage(max(images.MIN_SIDE, round(height / 2**i)), max(images.MIN_SIDE, round(width / 2**i)), steps, 0, dtype)
        for i, steps in zip(range(count - 1, 0, -1), coarse, strict=True)
        if steps
    ]
    left = parameters.steps - sum(stage.steps for stage in small)
    return [*small, Stage(height, width, left, max(1, round(parameters.steps * EXACT_SHARE)), dtype)]


def pixel_steps(height: int, width: int, parameters: GatysParameters, styles: int) -> float:
    """Return the most work that a transfer can be: all its steps, each times the pixels of its size.

    Each style costs a third of a step more at each size, at `style_scale` times the size.
    """
    height, width = images.size_within(height, width, parameters.size)
    looks = (1 + styles * parameters.style_scale**2) / 3
    return sum(s.height * s.width * (s.steps + looks) for s in plan(height, width, parameters))


def _useful_scales(height: int, width: int) -> int:
    """How often the shorter side can be halved, at most twice, and be `COARSE_MIN_SIDE` or more; plus one."""
    return 1 + sum(min(height, width) // 2**i >= COARSE_MIN_SIDE for i in (1, 2))


def _shares(total: int, parts: int) -> list[int]:
    """`total` in as equal whole parts as there are, the larger ones first."""
    return [total // parts + (i < total % parts) for i in range(parts)] if parts else []
