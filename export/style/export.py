"""A style run to a version folder: its graphs (uint8 pictures of any size in and out) and its styles by name.

`model.onnx` is what a CPU serves, `model_float16.onnx` what a GPU does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from keras import ops
from PIL import Image

from export.onnx import parity
from export.onnx.precision import CPU_DEFAULT, Precision
from export.style import restore, variants, vectors
from export.style.graph import StyleGraph
from export.style.variants import Inputs
from registry import configuration
from registry.staging import ExportResult
from reverie.progress import followed, say
from serving.style.files import GPU_MODEL, MODEL
from serving.style.table import VECTOR, StyleTable
from synthesis.style.network import StyleNetwork, restyle
from training.runs import Run
from training.style import train

NAME = "style"
TOLERANCE = parity.Tolerance(largest=6.0, mean=0.1, unit="of 255")
"""Of the float32 graph against Keras. Rounding to uint8 alone makes 1; weights are stored as float16."""
_SIDE = 64
"""Of the recorded picture, in pixels."""


def export_style(run: Run, folder: Path, precision: Precision = CPU_DEFAULT) -> ExportResult:
    """Write the version's files into `folder`.

    Args:
        precision: of `model.onnx`.

    Raises:
        ParityError: the float32 graph departs from Keras on the run's sample photos.
        PrecisionError: a precision departs too far from the float32 graph.
    """
    network = train.load(run)
    table = table_of(network, run.config.get("paintings_sha256", {}))
    photos = sample_photos(run)
    builder = StyleGraph(network, NAME)
    graph = builder.model()
    say(f"{NAME}: comparing with Keras on {len(photos)} photographs in {len(table.names)} styles")
    measured = [
        _compare(builder, graph, network, photo) for photo in followed(photos, f"{NAME}: photographs", len(photos))
    ]
    float32 = variants.session_paint(graph)
    expected = [(inputs, float32(inputs)) for inputs in _in_every_style(photos, table.rows)]
    departures = {}
    for file, made_in in {GPU_MODEL: Precision.float16, MODEL: precision}.items():
        say(f"{NAME}: making and measuring {made_in.value}")
        made = graph_in(made_in, network, photos)
        departures[made_in] = variants.check(made_in, variants.session_paint(made), expected)
        (folder / file).write_bytes(made.SerializeToString())
    table.write(folder)
    restore.write_kernels(network, folder)
    return ExportResult(
        NAME,
        configuration.style(table.names, table.rows.shape[1], table.network),
        max(measured, key=lambda p: p.largest),
        {"departure_from_float32": variants.as_dict(departures), restore.NETWORK: _shape(network)},
        _recorded(table),
    )


def table_of(network: StyleNetwork, paintings: Mapping[str, str] = MappingProxyType({})) -> StyleTable:
    """The styles of a network by name.

    Args:
        paintings: SHA-256 of each style's painting, as far as it is known.
    """
    names = network.config.styles
    digests = [paintings.get(name, "") for name in names]
    return StyleTable.of_vectors(names, vectors.style_vectors(network), vectors.trunk_hash(network), digests)


def _recorded(table: StyleTable) -> dict[str, np.ndarray]:
    """A picture in the first style: a vector that is drawn at random would paint next to nothing."""
    picture = np.random.default_rng(0).integers(0, 256, (1, _SIDE, _SIDE, 3), np.uint8)
    return {"image": picture, VECTOR: table.rows[:1]}


def _shape(network: StyleNetwork) -> dict[str, Any]:
    return {k: v for k, v in asdict(network.config).items() if k != "styles"}


def graph_in(precision: Precision, network: StyleNetwork, photos: Sequence[np.ndarray]) -> onnx.ModelProto:
    """The served graph in a precision.

    Args:
        photos: uint8 (height, width, 3) each; int8 takes its ranges from them.
    """
    return variants.make(network, NAME, precision, _in_every_style(photos, vectors.style_vectors(network)))


def graph_of(network: StyleNetwork, merges: bool = True) -> onnx.ModelProto:
    """The served graph of a network; see `export.style.graph.StyleGraph` for `merges`."""
    return StyleGraph(network, NAME, merges).model()


def _compare(builder: StyleGraph, graph: onnx.ModelProto, network: StyleNetwork, image: np.ndarray) -> parity.Parity:
    batch = np.repeat(image[None], len(network.config.styles), axis=0)
    inputs = {"image": batch, VECTOR: vectors.style_vectors(network)}
    expected = restyle(network, batch, _each_style(network))
    try:
        return parity.check(parity.run_graph(graph, inputs), expected, TOLERANCE, NAME)
    except parity.ParityError as error:
        raise parity.ParityError(f"{error}; {_first_departure(builder, graph, network, inputs)}") from None


def _first_departure(
    builder: StyleGraph, graph: onnx.ModelProto, network: StyleNetwork, inputs: dict[str, np.ndarray]
) -> str:
    image, multiple = inputs["image"], network.config.multiple
    whole = image[:, : image.shape[1] // multiple * multiple, : image.shape[2] // multiple * multiple]
    stages = network.stages(whole.astype(np.float32) / 127.5 - 1, inputs[VECTOR])
    expected = {layer: ops.convert_to_numpy(output).transpose(0, 3, 1, 2) for layer, output in stages}
    tensors = [builder.stages[layer] for layer in expected]
    found = parity.probe(graph, inputs | {"image": whole}, tensors)
    named = [f"{layer} (tensor {tensor})" for layer, tensor in zip(expected, tensors, strict=True)]
    return parity.first_departure(zip(named, found, expected.values(), strict=True))


def _each_style(network: StyleNetwork) -> np.ndarray:
    """The weights of a batch that shows each style once, as Keras takes them."""
    return np.eye(len(network.config.styles), dtype=np.float32)


def _in_every_style(photos: Sequence[np.ndarray], rows: np.ndarray) -> list[Inputs]:
    return [{"image": photo[None], VECTOR: row[None]} for photo, row in itertools.product(photos, rows)]


def sample_photos(run: Run) -> list[np.ndarray]:
    """The photographs on the run's last sample sheet (its first column), one cut to an odd size."""
    sheets = sorted(run.samples.glob("*.jpg"))
    if not sheets:
        return [np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)]
    sheet = np.asarray(Image.open(sheets[-1]))
    photos = [sheet[top : top + 256, :256] for top in range(0, sheet.shape[0], 256)]
    return [*photos, photos[0][:101, :157]]
