"""How far do the compact features carry Gatys' optimisation? Judged by VGG19's objective, VGG19 beside it.

    REVERIE_WEIGHTS_DIR=... python -m benchmarks.compact_features

Paints the demo's pagoda in the demo's stained glass through each extractor, with the book's weights, and
evaluates the book's objective on VGG19 for both results and for the untouched photograph. Takes about two
minutes on 2 cores.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from serving.demo.mosaic import stained_glass
from serving.demo.run import PICTURES
from synthesis import gatys, images
from synthesis.gatys import GatysParameters

SIZE, STEPS = 300, 40


def main() -> None:
    """Print the objective of the photograph and of each transfer."""
    photo, style = images.fit_within(images.read(PICTURES / "pagoda.jpg"), SIZE), stained_glass()
    judge = gatys.objective("vgg19")
    targets = gatys.book_targets(judge, photo, style, GatysParameters())

    def judged(picture: np.ndarray) -> float:
        return round(judge.measure(picture, targets).loss)

    result = {"size": SIZE, "steps": STEPS, "photograph": judged(photo)}
    for name in ("compact", "vgg19"):
        print(f"transferring through {name}", file=sys.stderr)
        result[name] = judged(gatys.transfer(photo, style, GatysParameters(features=name, size=SIZE, steps=STEPS)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
