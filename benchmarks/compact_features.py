"""How far do the compact features carry Gatys' optimization and DeepDream? Beside VGG19 and InceptionV3.

    REVERIE_WEIGHTS_DIR=... python -m benchmarks.compact_features --style a.jpg --style b.jpg

Paints the demo's pagoda in the demo's stained glass and in the given paintings through each extractor, with the book's
weights, and evaluates the book's objective on VGG19 for both results and for the untouched photograph. Writes sheets for
the eye: photograph, compact, VGG19 in a row for each style, and the two dreams. Takes about a minute a style on 2 cores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from imaging import images
from serving.demo.mosaic import stained_glass
from serving.demo.run import PICTURES
from synthesis import deepdream, features, gatys
from synthesis.deepdream import DeepDreamParameters
from synthesis.gatys import GatysParameters

SIZE, STEPS = 300, 40
DREAM_SIZE = 420
EXTRACTORS = ("compact", "vgg19")


def main(
    style: Annotated[list[Path], typer.Option(help="A painting; repeat for several.", default_factory=list)],
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = Path("out/compact"),
) -> None:
    """Print the objective of the photograph and of each transfer, by style."""
    out.mkdir(parents=True, exist_ok=True)
    photo = images.fit_within(images.read(PICTURES / "pagoda.jpg"), SIZE)
    styles = {"stained_glass": stained_glass()} | {path.stem: images.read(path) for path in style}
    judged, rows = {}, []
    for name, painting in styles.items():
        print(f"transferring {name}", file=sys.stderr)
        painted = {e: gatys.transfer(photo, painting, transfer_with(e)) for e in EXTRACTORS}
        judged[name] = objective({"photograph": photo, **painted}, photo, painting)
        rows.append([photo, *painted.values()])
    save_sheet(rows, out / "transfers.png")
    save_sheet([dreams()], out / "dreams.png")
    result = {"size": SIZE, "steps": STEPS, "objective": judged, "share_of_vgg19": round(share_of_vgg19(judged), 3)}
    print(json.dumps(result))


def transfer_with(extractor: str) -> GatysParameters:
    return GatysParameters(recipe="book", features=extractor, size=SIZE, steps=STEPS)


def objective(pictures: dict[str, np.ndarray], photo: np.ndarray, style: np.ndarray) -> dict[str, int]:
    """Return the book's objective on VGG19 of each picture."""
    judge = gatys.objective("vgg19")
    targets = gatys.book_targets(judge, photo, style, gatys.BOOK)
    return {name: round(judge.measure(picture, targets).loss) for name, picture in pictures.items()}


def share_of_vgg19(judged: dict[str, dict[str, int]]) -> float:
    """Return the compact features' share of what VGG19 takes off the logarithm of the objective, mean over styles."""
    shares = [
        np.log(losses["photograph"] / losses["compact"]) / np.log(losses["photograph"] / losses["vgg19"])
        for losses in judged.values()
    ]
    return float(np.mean(shares))


def dreams() -> list[np.ndarray]:
    """Return the photograph, the compact features' dream, and InceptionV3's where its weights are."""
    photo = images.fit_within(images.read(PICTURES / "cat.jpg"), DREAM_SIZE)
    extractors = [name for name in ("compact", "inception_v3") if name in features.available()]
    return [photo, *(deepdream.dream(photo, DeepDreamParameters(features=name)) for name in extractors)]


def save_sheet(rows: list[list[np.ndarray]], path: Path) -> None:
    """Write a sheet: pictures of equal height beside each other, rows below each other."""
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(path)
    print(f"see {path}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
