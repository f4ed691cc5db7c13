"""A published style network back to a training run, to go on from or to teach another style.

Reads the constants of `model_float16.onnx` by the names that `export/style/graph.py` gives them, and the rows of the styles
from `styles.npz`; older versions keep these among the constants too. Kernels that the graph has merged with enlarging are in
`kernels.npz` as they were: computed back from the merged ones they would be a little off, and the network's hash another.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import onnx
from keras import ops
from onnx import numpy_helper

from export.language_model.restore import RestoreError
from export.style import vectors
from export.style.graph import PHASES, weight_name, whole_kernels
from registry import manifest
from serving.style.files import GPU_MODEL
from serving.style.table import StyleTable
from synthesis.style.network import ConvNorm, StyleNetwork, StyleNetworkConfig, ToRGB, build
from training import loop
from training.runs import Run
from training.style.train import KIND, StyleTraining

NETWORK = "network"
"""Under this name a manifest's `measured` keeps the network's shape."""


KERNELS = "kernels.npz"


def write_kernels(network: StyleNetwork, folder: Path) -> None:
    """Write what a graph does not hold as it was: the kernels of the layers that enlarge, float16 (out, in, height, width)."""
    places = {id(variable): weight_name(i) for i, variable in enumerate(network.variables)}
    last: list[ConvNorm | ToRGB] = [*network.up, network.to_rgb]
    layers = [layer for layer in last if layer.enlarges]
    kernels = {places[id(layer.conv.kernel)]: ops.convert_to_numpy(layer.conv.kernel) for layer in layers}
    arrays = {name: kernel.transpose(3, 2, 0, 1).astype(np.float16) for name, kernel in kernels.items()}
    np.savez_compressed(folder / KERNELS, **arrays)


def restore(version: Path, path: Path | None = None) -> Run:
    """A finished run with the weights of a published version, as they were rounded for it (float16).

    Args:
        version: a version's folder of `style`.
        path: the run's folder; see `Run.create`.

    Raises:
        RestoreError: there is no version, or one that does not say what shape it has.
    """
    graph = version / GPU_MODEL
    if not graph.exists():
        raise RestoreError(f"{version} holds no style network that can be restored; see 'reverie models'")
    known = manifest.read(version)
    if NETWORK not in known.measured:
        raise RestoreError(f"{version / manifest.FILE} does not say what shape the network has")
    table = StyleTable.read(version)
    config = StyleTraining(
        StyleNetworkConfig(table.names, **known.measured[NETWORK]), steps=known.result.get("steps", 1)
    )
    keras.config.set_dtype_policy("float32")
    network = build(config.network)
    constants = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in onnx.load(graph).graph.initializer}
    if table.takes_vectors:
        constants |= _rows(network, table.rows)
    if (version / KERNELS).exists():
        with np.load(version / KERNELS, allow_pickle=False) as kernels:
            constants |= {name: kernels[name].astype(np.float32) for name in kernels.files}
    loop.assign(network.variables, [_value(constants, i, v.shape) for i, v in enumerate(network.variables)])
    run = Run.create(KIND, asdict(config), path)
    network.save_weights(run.weights)
    run.finish(dict(known.result))
    return run


def _rows(network: StyleNetwork, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The styles' rows of each variable under the name that its constant would have."""
    places = {id(variable): weight_name(i) for i, variable in enumerate(network.variables)}
    names = [places[id(variable)] for variable in vectors.style_variables(network)]
    parts = np.split(rows, np.cumsum(vectors.lengths(network))[:-1], axis=1)
    return dict(zip(names, parts, strict=True))


def _value(constants: dict[str, np.ndarray], index: int, shape: tuple[int, ...]) -> np.ndarray:
    name = weight_name(index)
    if len(shape) < 4:
        return constants[name][: shape[0]]  # A bias is repeated for each phase.
    kernel = constants[name] if name in constants else whole_kernels(constants[name + PHASES])
    return kernel.transpose(2, 3, 1, 0)
