"""Does the ONNX graph compute what Keras computes? If not, nothing is published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort


class ParityError(Exception):
    """The exported graph departs from the trained model; the message shows by how much."""


class PrecisionError(Exception):
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


@dataclass(frozen=True)
class Parity:
    """Measured differences between the graph and Keras."""

    largest: float
    mean: float
    unit: str
    inputs: int


def run_graph(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The single output of `model` for `inputs`, in ONNX Runtime on the CPU."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


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
