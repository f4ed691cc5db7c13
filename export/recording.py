"""`recorded.npz`: inputs of a version and what its graph answered at export, to compare a server's answer with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from export.configuration import ModelConfiguration

FILE = "recorded.npz"
_IN, _OUT = "in:", "out:"
_LEVELS = 8
"""Of 255, for pictures; another device or precision rounds otherwise."""
_RELATIVE = 0.02
_SIDE = 64
"""Of a random picture, in pixels: enough to go through every operator."""


class RecordingError(Exception):
    """A version does not answer as it did at export; the message says by how much."""


def record(folder: Path, configuration: ModelConfiguration, inputs: Mapping[str, np.ndarray]) -> None:
    """Run `model.onnx` of `folder` on the CPU and keep what it answered.

    Args:
        inputs: arrays with the batch first; if empty, drawn at random in the shapes of the model's warm-up, pictures smaller.
    """
    inputs = inputs or _draw(configuration)
    outputs = run(folder / "model.onnx", inputs)
    arrays = {_IN + n: a for n, a in inputs.items()} | {_OUT + n: a for n, a in outputs.items()}
    np.savez_compressed(folder / FILE, **arrays)


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    """Inputs and outputs of a version; None if none were recorded."""
    if not (folder / FILE).exists():
        return None
    with np.load(folder / FILE) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return tuple({n.removeprefix(p): a for n, a in found.items() if n.startswith(p)} for p in (_IN, _OUT))  # type: ignore[return-value]


def run(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output of a graph, in ONNX Runtime on the CPU."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


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
