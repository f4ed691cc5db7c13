"""The precisions that a style network is served in: how each is made, and how far it may be from float32.

- `int8`, for CPUs: 8-bit convolutions with static ranges, measured on photographs. The convolutions on the way down,
  which see fine detail, and the last, which makes the pixels, stay float32, as does all normalization.
- `float16`, for GPUs: float16 convolutions, float32 normalization.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from onnxruntime import quantization

from export.onnx.conversion import weights_hash
from export.onnx.parity import PrecisionError
from export.onnx.precision import Precision
from export.style.graph import StyleGraph
from reverie.onnx_sessions import open_session
from synthesis.style.network import StyleNetwork


@dataclass(frozen=True)
class Departure:
    """How far pictures are from float32's.

    Attributes:
        mean: absolute difference, of 255.
        ssim: lowest structural similarity of a picture, 1 for the same.
    """

    mean: float
    ssim: float


LIMITS = {
    Precision.float32: Departure(0.0, 1.0),
    Precision.float16: Departure(0.5, 0.995),
    Precision.int8: Departure(4.0, 0.96),
}
"""The largest mean and the lowest similarity that are published."""

Inputs = Mapping[str, np.ndarray]


def make(network: StyleNetwork, name: str, precision: Precision, calibration: Iterable[Inputs]) -> onnx.ModelProto:
    """The graph of a network in a precision; see `export.style.graph`.

    Args:
        calibration: inputs that `int8` takes its ranges from.
    """
    if precision is Precision.int8:
        graph = StyleGraph(network, name, stores_float16=False).model()
        convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv"]
        return _int8(graph, name, calibration, [*convolutions[: len(network.down)], convolutions[-1]])
    float_type = np.float16 if precision is Precision.float16 else np.float32
    return StyleGraph(network, name, float_type=float_type).model()


def check(
    precision: Precision, paint: Callable[[Inputs], np.ndarray], expected: list[tuple[Inputs, np.ndarray]]
) -> Departure:
    """Compare a precision with float32's pictures.

    Args:
        paint: inputs to uint8 (batch, height, width, 3).
        expected: inputs, and what float32 makes of them.

    Returns:
        The `Departure`.

    Raises:
        PrecisionError: it is above the precision's limit.
    """
    found = departure([(paint(inputs), picture) for inputs, picture in expected])
    limit = LIMITS[precision]
    if not (found.mean <= limit.mean and found.ssim >= limit.ssim):
        raise PrecisionError(
            f"{precision.value} departs from float32 by {found.mean:.3g} of 255 on average, lowest ssim {found.ssim:.4f}; "
            f"accepted: {limit.mean:g} and {limit.ssim:g}; nothing was published"
        )
    return found


def departure(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Departure:
    """Of pictures from those beside them; uint8 (batch, height, width, 3) each."""
    pairs = list(pairs)
    mean = np.mean([np.abs(a.astype(np.float64) - b).mean() for a, b in pairs])
    ssim = min(float(tf.reduce_min(tf.image.ssim(tf.constant(a), tf.constant(b), 255))) for a, b in pairs)
    return Departure(float(mean), ssim)


def session_paint(model: onnx.ModelProto) -> Callable[[Inputs], np.ndarray]:
    """The graph in ONNX Runtime on the CPU."""
    session = open_session(model)
    return lambda inputs: session.run(None, dict(inputs))[0]


def as_dict(departures: Mapping[Precision, Departure]) -> dict[str, dict[str, float]]:
    """For a manifest, to four digits."""
    return {p.value: {k: float(f"{v:.4g}") for k, v in asdict(d).items()} for p, d in departures.items()}


def _int8(model: onnx.ModelProto, name: str, calibration: Iterable[Inputs], in_float32: list[str]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        with _quiet():
            quantization.quantize_static(
                source,
                target,
                _Reader(calibration),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=in_float32,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # 7 bits for weights: without VNNI two products of 8 bits overflow the 16 that hold their sum.
                reduce_range=True,
            )
        made = onnx.load(target)
    made.graph.name = f"{name}_{weights_hash(made)}"
    return made


class _Reader(quantization.CalibrationDataReader):
    def __init__(self, inputs: Iterable[Inputs]):
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next inputs, or None at the end."""
        found = next(self._inputs, None)
        return None if found is None else dict(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice to run a preprocessing that this graph has no need of."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
