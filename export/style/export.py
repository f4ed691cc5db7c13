"""A style run to a version folder: its graphs (uint8 pictures of any size in and out) and `styles.json`.

`model.onnx` is what a CPU serves, `model_float16.onnx` what a GPU does.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from keras import ops
from PIL import Image

from export.onnx import parity
from export.onnx.precision import CPU_DEFAULT, Precision
from export.style import restore, variants
from export.style.graph import StyleGraph
from export.style.variants import Inputs
from registry import configuration
from registry.staging import ExportResult
from reverie.progress import followed, say
from serving.style.files import GPU_MODEL, MODEL
from synthesis.style.network import StyleNetwork, restyle
from training.runs import Run
from training.style import train

NAME = "style"
TOLERANCE = parity.Tolerance(largest=6.0, mean=0.1, unit="of 255")
"""Of the float32 graph against Keras. Rounding to uint8 alone makes 1; weights are stored as float16."""


def export_style(run: Run, folder: Path, precision: Precision = CPU_DEFAULT) -> ExportResult:
    """Write the version's files into `folder`.

    Args:
        precision: of `model.onnx`.

    Raises:
        ParityError: the float32 graph departs from Keras on the run's sample photos.
        PrecisionError: a precision departs too far from the float32 graph.
    """
    network = train.load(run)
    styles = network.config.styles
    photos = sample_photos(run)
    builder = StyleGraph(network, NAME)
    graph = builder.model()
    say(f"{NAME}: comparing with Keras on {len(photos)} photographs in {len(styles)} styles")
    measured = [
        _compare(builder, graph, network, photo) for photo in followed(photos, f"{NAME}: photographs", len(photos))
    ]
    float32 = variants.session_paint(graph)
    expected = [(inputs, float32(inputs)) for inputs in _in_every_style(photos, len(styles))]
    departures = {}
    for file, made_in in {GPU_MODEL: Precision.float16, MODEL: precision}.items():
        say(f"{NAME}: making and measuring {made_in.value}")
        made = graph_in(made_in, network, photos)
        departures[made_in] = variants.check(made_in, variants.session_paint(made), expected)
        (folder / file).write_bytes(made.SerializeToString())
    (folder / "styles.json").write_text(json.dumps(styles) + "\n")
    return ExportResult(
        NAME,
        configuration.style(styles),
        max(measured, key=lambda p: p.largest),
        {"departure_from_float32": variants.as_dict(departures), restore.NETWORK: _shape(network)},
    )


def _shape(network: StyleNetwork) -> dict[str, Any]:
    return {k: v for k, v in asdict(network.config).items() if k != "styles"}


def graph_in(precision: Precision, network: StyleNetwork, photos: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The served graph in a precision.

    Args:
        photos: uint8 (height, width, 3) each; int8 takes its ranges from them.
    """
    return variants.make(network, NAME, precision, _in_every_style(photos, len(network.config.styles)))


def graph_of(network: StyleNetwork, merges: bool = True) -> onnx.ModelProto:
    """The served graph of a network; see `export.style.graph.StyleGraph` for `merges`."""
    return StyleGraph(network, NAME, merges).model()


def _compare(builder: StyleGraph, graph: onnx.ModelProto, network: StyleNetwork, image: np.ndarray) -> parity.Parity:
    count = len(network.config.styles)
    weights = np.eye(count, dtype=np.float32)
    batch = np.repeat(image[None], count, axis=0)
    inputs = {"image": batch, "style_weights": weights}
    try:
        return parity.check(parity.run_graph(graph, inputs), restyle(network, batch, weights), TOLERANCE, NAME)
    except parity.ParityError as error:
        raise parity.ParityError(f"{error}; {_first_departure(builder, graph, network, inputs)}") from None


def _first_departure(
    builder: StyleGraph, graph: onnx.ModelProto, network: StyleNetwork, inputs: dict[str, np.ndarray]
) -> str:
    image, multiple = inputs["image"], network.config.multiple
    whole = image[:, : image.shape[1] // multiple * multiple, : image.shape[2] // multiple * multiple]
    stages = network.stages(whole.astype(np.float32) / 127.5 - 1, network.vectors(inputs["style_weights"]))
    expected = {layer: ops.convert_to_numpy(output).transpose(0, 3, 1, 2) for layer, output in stages}
    tensors = [builder.stages[layer] for layer in expected]
    found = parity.probe(graph, inputs | {"image": whole}, tensors)
    named = [f"{layer} (tensor {tensor})" for layer, tensor in zip(expected, tensors, strict=True)]
    return parity.first_departure(zip(named, found, expected.values(), strict=True))


def _in_every_style(photos: Sequence[np.ndarray], styles: int) -> list[Inputs]:
    weights = np.eye(styles, dtype=np.float32)
    return [{"image": p[None], "style_weights": w[None]} for p, w in itertools.product(photos, weights)]


def sample_photos(run: Run) -> list[np.ndarray]:
    """The photographs on the run's last sample sheet (its first column), one cut to an odd size."""
    sheets = sorted(run.samples.glob("*.jpg"))
    if not sheets:
        return [np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)]
    sheet = np.asarray(Image.open(sheets[-1]))
    photos = [sheet[top : top + 256, :256] for top in range(0, sheet.shape[0], 256)]
    return [*photos, photos[0][:101, :157]]
