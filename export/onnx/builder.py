"""A small ONNX graph builder, and how its linear layers compute: float32, float16 or int8.

Knows nothing about language models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators (docs/ContribOperators.md in its repository)."""

_INT8_MAX = 127
_FAR_BELOW = -1e4
_LEVELS = 255


@dataclass
class Graph:
    """Nodes and constants in the making; every method returns the name of a tensor.

    Attributes:
        float_type: element type of activations and float constants, np.float32 or np.float16.
    """

    float_type: type = np.float32
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(
        self, kind: str, *inputs: str, name: str, outputs: Sequence[str] = (), domain: str = "", **attributes
    ) -> str:
        """Add a node; its first (or only) output is called `name` unless `outputs` are named."""
        outputs = outputs or (name,)
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant as it is."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def floats(self, name: str, value: np.ndarray) -> str:
        """A constant of the graph's float type."""
        return self.constant(name, np.asarray(value, self.float_type))

    def stored(self, name: str, value: np.ndarray) -> str:
        """A large weight: stored as float16, cast once (folded when a session is made) if the graph is float32."""
        half = np.asarray(value, np.float16)
        if self.float_type is np.float16:
            return self.constant(name, half)
        return self.op("Cast", self.constant(f"{name}/float16", half), name=name, to=TensorProto.FLOAT)

    def layer_norm(self, x: str, name: str, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> str:
        """LayerNormalization over the last axis."""
        scale, bias = self.floats(f"{name}/gamma", gamma), self.floats(f"{name}/beta", beta)
        return self.op("LayerNormalization", x, scale, bias, name=name, epsilon=epsilon, axis=-1)

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="reverie")
        onnx.checker.check_model(made)
        return made

    @property
    def element_type(self) -> int:
        """The graph's float type as ONNX names it."""
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.float_type))


@dataclass(frozen=True)
class Linear:
    """A linear layer's trained values.

    Attributes:
        name: unique in the graph.
        weight: float (inputs, outputs).
        bias: float (outputs,), or None.
        derived: the weight was computed from stored ones, and is kept as exact as the graph's floats.
        shared: name of a stored weight of the graph whose transpose this one is.
        width: outputs after filling up; 0 for as many as there are.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray | None = None
    derived: bool = False
    shared: str | None = None
    width: int = 0

    def stored_weight(self, graph: Graph) -> str:
        """The weight as a tensor of `graph`, filled up."""
        name = f"{self.name}/weight"
        if self.shared:
            weight = graph.op("Transpose", self.shared, name=name, perm=[1, 0])
        else:
            weight = graph.floats(name, self.weight) if self.derived else graph.stored(name, self.weight)
        if not self.missing:
            return weight
        # Concat and not Pad, which ONNX Runtime cannot fold for float16.
        zeros = graph.floats(f"{name}/zeros", np.zeros((self.weight.shape[0], self.missing)))
        return graph.op("Concat", weight, zeros, name=f"{name}/filled", axis=1)

    @property
    def missing(self) -> int:
        """Outputs to fill up, which have no weights and a bias far below all others."""
        return max(0, self.width - self.weight.shape[1])

    def stored_bias(self, graph: Graph) -> str | None:
        """The bias as a tensor of `graph`, filled up; None without one."""
        if self.bias is None:
            return None
        return graph.floats(f"{self.name}/bias", np.pad(self.bias, (0, self.missing), constant_values=_FAR_BELOW))


class FloatLinear:
    """`x @ weight + bias` in the graph's float type."""

    def __call__(self, graph: Graph, x: str, layer: Linear, relu: bool = False) -> str:
        """Args: `relu`: clip `x` at 0 first (the activation of the layer before)."""
        if relu:
            x = graph.op("Relu", x, name=f"{layer.name}/relu")
        product = graph.op("MatMul", x, layer.stored_weight(graph), name=f"{layer.name}/matmul")
        bias = layer.stored_bias(graph)
        return product if bias is None else graph.op("Add", product, bias, name=layer.name)


@dataclass(frozen=True)
class Range:
    """Smallest and largest value that an activation takes; 0 is always inside."""

    low: float
    high: float

    def quantization(self, relu: bool) -> tuple[np.float32, np.uint8]:
        """Scale and zero point that spread the range over 0 to 255; with `relu` its part above 0."""
        low, high = (0.0 if relu else min(self.low, 0.0)), max(self.high, 1e-6)
        scale = np.float32((high - low) / _LEVELS)
        return scale, np.uint8(round(-low / scale))


@dataclass(frozen=True)
class Int8Linear:
    """`x @ weight + bias` with 8-bit integers: one scale a column of the weight, one calibrated scale for `x`.

    The scale of `x` is a constant: the sums are then exact integers, and a row's result does not depend on
    what else is in the batch (with scales taken from the batch, one request would move another's text).

    Attributes:
        ranges: of every layer's input, by the layer's name, as calibrated; values outside saturate.
    """

    ranges: Mapping[str, Range]

    def __call__(self, graph: Graph, x: str, layer: Linear, relu: bool = False) -> str:
        """Args: `relu`: clip `x` at 0 first; unsigned numbers do that for nothing."""
        scale, zero = self.ranges[layer.name].quantization(relu)
        scale_name = graph.constant(f"{layer.name}/x_scale", np.array(scale))
        zero_name = graph.constant(f"{layer.name}/x_zero", np.array(zero))
        quantized = graph.op("QuantizeLinear", x, scale_name, zero_name, name=f"{layer.name}/x_int8")
        weight, weight_scale = self._weight(graph, layer)
        bias = layer.stored_bias(graph)
        inputs = [quantized, weight, scale_name, weight_scale, zero_name, *([] if bias is None else ["", bias])]
        return graph.op("MatMulIntegerToFloat", *inputs, name=layer.name, domain=MICROSOFT)

    @staticmethod
    def _weight(graph: Graph, layer: Linear) -> tuple[str, str]:
        """int8 (inputs, outputs), made from the stored weight when a session is made; and its scales (outputs,)."""
        largest = np.pad(np.abs(layer.weight).max(axis=0).astype(np.float32), (0, layer.missing))
        scale = graph.constant(f"{layer.name}/scale", np.maximum(largest, 1e-12) / np.float32(_INT8_MAX))
        zero = graph.constant(f"{layer.name}/zero", np.zeros(len(largest), np.int8))
        weight = layer.stored_weight(graph)
        return graph.op("QuantizeLinear", weight, scale, zero, name=f"{layer.name}/int8", axis=1), scale


def value(name: str, element_type: int, shape: Sequence[Any]) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, element_type, shape)
