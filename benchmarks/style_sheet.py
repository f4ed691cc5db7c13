"""`python -m benchmarks.style_sheet`: photographs beside what the served style network makes of them, to look at.

One row a photograph, one column a style, painted as `stylize` paints. Writes one JPEG and says on the last line what it
took. The sheets of the docs are made by it; `docs/style_evaluation.md` says of which photographs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont

from imaging import images
from reverie import outputs
from reverie.restylers import DEFAULT_STRENGTH, newest, restyler_of
from training.photos import Photos

_GAP = 6
_HEADER = 26
_PAPER = (24, 24, 26)
_INK = (225, 225, 220)


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    out: Annotated[Path, typer.Argument(help="The sheet, a JPEG.")],
    size: Annotated[int, typer.Option(min=128, help="Longer side in pixels that the network paints.")] = 512,
    cell: Annotated[int, typer.Option(min=64, help="Longer side in pixels of each picture on the sheet.")] = 300,
    version: Annotated[str | None, typer.Option(help="Published version, or its folder. Default: the newest.")] = None,
    repository: Annotated[Path, typer.Option(help="Where models are published.")] = Path("model_repository"),
    quality: Annotated[int, typer.Option(min=1, max=95, help="Of the JPEG.")] = 82,
) -> None:
    """Paint photographs in every style and put them on one sheet."""
    outputs.check(out)
    network = restyler_of(version or newest(repository), repository)
    paths, began = Photos.of(photos).paths, time.perf_counter()
    rows = []
    for number, path in enumerate(paths, 1):
        print(f"{path.name}: {number} of {len(paths)}", file=sys.stderr)
        photo = enlarged(images.read(path), size)
        rows.append([photo, *(network.paint(photo, style, DEFAULT_STRENGTH) for style in network.styles)])
    sheet = contact_sheet(rows, ["photograph", *network.styles], cell)
    outputs.write(out, images.encode(sheet, "jpeg", quality=quality))
    seconds = time.perf_counter() - began
    print(json.dumps({"network": network.name, "photos": len(paths), "size": size, "seconds": round(seconds, 1)}))


def enlarged(photo: np.ndarray, longest: int) -> np.ndarray:
    """`photo` with a longer side of `longest`, smaller or larger than it was."""
    height, width = photo.shape[:2]
    scale = longest / max(height, width)
    return images.resize(photo, round(height * scale), round(width * scale))


def contact_sheet(rows: list[list[np.ndarray]], names: list[str], cell: int) -> np.ndarray:
    """Put pictures on a dark sheet, the columns named above.

    Args:
        rows: pictures uint8 (height, width, 3), as many in each row as `names`.
        cell: their longer side on the sheet, in pixels.
    """
    shrunk = [[images.fit_within(picture, cell) for picture in row] for row in rows]
    height = _HEADER + _GAP + sum(max(p.shape[0] for p in row) + _GAP for row in shrunk)
    sheet = Image.new("RGB", (len(names) * (cell + _GAP) + _GAP, height), _PAPER)
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=16), _HEADER + _GAP
    for column, name in enumerate(names):
        left = _GAP + column * (cell + _GAP)
        draw.text((left + cell / 2, _HEADER / 2 + 2), name.replace("_", " "), _INK, font, anchor="mm")
    for row in shrunk:
        for column, picture in enumerate(row):
            left = _GAP + column * (cell + _GAP) + (cell - picture.shape[1]) // 2
            sheet.paste(Image.fromarray(picture), (left, top))
        top += max(p.shape[0] for p in row) + _GAP
    return np.asarray(sheet)


if __name__ == "__main__":
    typer.run(main)
