"""A style run to a version folder: `model.onnx` (uint8 pictures of any size in and out) and `styles.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from export import configuration, parity
from export.style_graph import StyleGraph
from export.version import Exported
from training.runs import Run
from training.style import train
from training.style.network import StyleNetwork, restyle

NAME = "style"
TOLERANCE = parity.Tolerance(largest=6.0, mean=0.1, unit="of 255")
"""Rounding to uint8 alone makes 1; weights are stored as float16."""


def export(run: Run, folder: Path) -> Exported:
    """Write the version's files into `folder`.

    Raises:
        ParityError: the graph departs from Keras on the run's sample photos.
    """
    network = train.load(run)
    styles = network.config.styles
    graph = graph_of(network)
    measured = [_compare(graph, network, image) for image in _sample_photos(run)]
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "styles.json").write_text(json.dumps(styles) + "\n")
    return Exported(NAME, configuration.style(styles), max(measured, key=lambda p: p.largest))


def graph_of(network: StyleNetwork, merges: bool = True) -> onnx.ModelProto:
    """The served graph of a network; see `export.style_graph.StyleGraph` for `merges`."""
    return StyleGraph(network, NAME, merges).model()


def _compare(graph: onnx.ModelProto, network: StyleNetwork, image: np.ndarray) -> parity.Parity:
    count = len(network.config.styles)
    weights = np.eye(count, dtype=np.float32)
    batch = np.repeat(image[None], count, axis=0)
    exported = parity.run_graph(graph, {"image": batch, "style_weights": weights})
    return parity.check(exported, restyle(network, batch, weights), TOLERANCE, NAME)


def _sample_photos(run: Run) -> list[np.ndarray]:
    """The photographs on the run's last sample sheet (its first column), one cut to an odd size."""
    sheets = sorted(run.samples.glob("*.jpg"))
    if not sheets:
        return [np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)]
    sheet = np.asarray(Image.open(sheets[-1]))
    photos = [sheet[top : top + 256, :256] for top in range(0, sheet.shape[0], 256)]
    return [*photos, photos[0][:101, :157]]
