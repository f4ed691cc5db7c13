"""`recorded.npz`: inputs of a version and what its graphs answered at export, to compare a server's answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.model_configuration import ModelConfiguration
from reverie.errors import ToolkitError
from reverie.onnx_sessions import open_session
from serving.triton.graph_inputs import RECORDED as FILE
from serving.triton.graph_inputs import RECORDED_INPUT as _IN

MODEL = "model.onnx"
_OUT = "out:"
_OUT_OF = "out@{}:"
"""Outputs of another graph than `model.onnx`."""
_LEVELS = 8
"""Of 255, for pictures; another device or precision rounds otherwise."""
_RELATIVE = 0.02
_SIDE = 64
"""Of a random picture, in pixels: enough to go through every operator."""


class RecordingError(ToolkitError):
    """A version does not answer as it did at export; the message says by how much."""


@dataclass(frozen=True)
class GoldenOutputs:
    """What was asked at export, and the answers.

    Attributes:
        inputs: arrays by name.
        answers: outputs by name, of each graph by its file's name; any of them may be the one that a server runs.
    """

    inputs: dict[str, np.ndarray]
    answers: dict[str, dict[str, np.ndarray]]


def record(folder: Path, configuration: ModelConfiguration, inputs: Mapping[str, np.ndarray]) -> None:
    """Run the graphs of `folder` that Triton may serve on the CPU, and keep what they answered.

    Args:
        inputs: arrays with the batch first; if empty, drawn at random in the shapes of the model's warm-up, pictures smaller.
    """
    inputs = inputs or _draw(configuration)
    arrays = {_IN + name: array for name, array in inputs.items()}
    for file in filter(None, (MODEL, configuration.gpu_file)):
        if (folder / file).exists():
            arrays |= {_prefix(file) + name: array for name, array in run(folder / file, inputs).items()}
    np.savez_compressed(folder / FILE, **arrays)


def read(folder: Path) -> GoldenOutputs | None:
    """What was recorded of a version; None if nothing was."""
    if not (folder / FILE).exists():
        return None
    with np.load(folder / FILE) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    files = sorted({MODEL} | {n.partition("@")[2].partition(":")[0] for n in found if n.startswith("out@")})
    return GoldenOutputs(_named(found, _IN), {file: _named(found, _prefix(file)) for file in files})


def _prefix(file: str) -> str:
    return _OUT if file == MODEL else _OUT_OF.format(file)


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def run(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output of a graph, in ONNX Runtime on the CPU."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def compare_any(answered: Mapping[str, np.ndarray], recorded: GoldenOutputs) -> None:
    """Accept the answer of any graph of the version.

    Raises:
        RecordingError: as `compare`, for `model.onnx`.
    """
    errors = []
    for expected in recorded.answers.values():
        try:
            return compare(answered, expected)
        except RecordingError as error:
            errors.append(error)
    raise errors[0]


def compare(answered: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Accept what another device may round otherwise, and nothing more.

    Raises:
        RecordingError: an output is missing, has another shape, or is too far away.
    """
    for name, array in expected.items():
        if name not in answered or answered[name].shape != array.shape:
            shape = list(answered[name].shape) if name in answered else "nothing"
            raise RecordingError(f"{name}: answered {shape}, recorded {list(array.shape)}")
        _compare(name, answered[name].astype(np.float64), array)


def _compare(name: str, answered: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(answered - expected.astype(np.float64))
    accepted = _LEVELS if expected.dtype == np.uint8 else _RELATIVE * max(1.0, float(np.abs(expected).max()))
    if not difference.max(initial=0.0) <= accepted:
        raise RecordingError(
            f"{name}: differs by {difference.max():.4g} from what was recorded; accepted: {accepted:.4g}"
        )


def _draw(configuration: ModelConfiguration) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = configuration.warmup[0]
    types = {tensor.name: tensor.type for tensor in configuration.inputs}
    return {name: _random(rng, types[name], (1, *dims)) for name, dims in shapes.of.items()}


def _random(rng: np.random.Generator, type_: str, shape: tuple[int, ...]) -> np.ndarray:
    if type_ == "TYPE_UINT8":
        return rng.integers(0, 256, [min(n, _SIDE) for n in shape], np.uint8)
    if type_ == "TYPE_INT32":
        return rng.integers(0, 2, shape).astype(np.int32)  # The ids that every vocabulary has.
    return np.full(shape, 1 / shape[-1], np.float32)
