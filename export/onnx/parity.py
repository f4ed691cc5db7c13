"""Does the ONNX graph compute what Keras computes? If not, nothing is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from registry.staging import Parity
from reverie.errors import ToolkitError
from reverie.onnx_sessions import open_session


class ParityError(ToolkitError):
    """The exported graph departs from the trained model; the message shows by how much."""


class PrecisionError(ToolkitError):
    """A precision departs too far from float32, or costs too much of the task's own measure; the message says how much."""


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted differences, in the unit named.

    Attributes:
        largest: of any element; mean: over all elements.
    """

    largest: float
    mean: float
    unit: str


def run_graph(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The single output of `model` for `inputs`, in ONNX Runtime on the CPU."""
    session = open_session(model)
    return session.run(None, inputs)[0]


def probe(model: onnx.ModelProto, inputs: dict[str, np.ndarray], tensors: Sequence[str]) -> list[np.ndarray]:
    """What the named tensors inside `model` hold for `inputs`, in ONNX Runtime on the CPU."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    session = open_session(probed)
    return session.run(list(tensors), inputs)


def first_departure(layers: Iterable[tuple[str, np.ndarray, np.ndarray]], accepted: float = 0.01) -> str:
    """Which layer is the first whose output in the graph is not what Keras computes, in words.

    Args:
        layers: name, what the graph computes and what Keras does, in the order of computation.
        accepted: largest error, relative to the largest value of the layer.
    """
    for layer, found, expected in layers:
        error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-6))
        if not error <= accepted:
            return f"the first layer to depart is {layer}, by {error:.3g} of its largest value"
    return "every layer but the last agrees"


def check(exported: np.ndarray, expected: np.ndarray, tolerance: Tolerance, what: str) -> Parity:
    """Compare outputs of the same inputs.

    Raises:
        ParityError: a difference is above `tolerance`, or an output is not finite.
    """
    difference = np.abs(exported.astype(np.float64) - expected.astype(np.float64))
    parity = Parity(float(difference.max()), float(difference.mean()), tolerance.unit, len(expected))
    if not (parity.largest <= tolerance.largest and parity.mean <= tolerance.mean):
        raise ParityError(
            f"{what}: the ONNX graph departs from Keras by {parity.largest:.4g} {tolerance.unit} at most and "
            f"{parity.mean:.4g} on average; accepted: {tolerance.largest:g} and {tolerance.mean:g}; nothing was published"
        )
    return parity
