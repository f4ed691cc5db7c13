"""Two graphs out of a style network's one: measure a picture's normalization statistics, and restyle with given ones.

Instance normalization looks at a whole picture, so tiles restyled one by one differ in color and in strength and
show seams. With the statistics of the whole picture (Chen et al., "Toward Ultra-Resolution Neural Style Transfer
via Thumbnail Instance Normalization", AAAI 2022) the network is purely local: a tile's inner part comes out as it
would in the whole picture. Works on any graph whose normalizations are `InstanceNormalization` nodes or written out
with `ReduceMean`; knows nothing about tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class SplitGraphs:
    """Serialized graphs.

    Attributes:
        measure: takes what the network takes, returns the tensors called `statistics`.
        restyle: takes them in addition and returns `stylized`.
    """

    measure: bytes
    restyle: bytes
    statistics: tuple[str, ...]


def split_statistics(model: onnx.ModelProto) -> SplitGraphs:
    """Cut `model` where normalizations take means over the picture.

    Raises:
        ValueError: there is no such place.
    """
    written_out = _write_out_normalizations(model)
    names = tuple(node.output[0] for node in written_out.graph.node if node.op_type == "ReduceMean")
    if not names:
        raise ValueError(f"graph {model.graph.name} has neither InstanceNormalization nor ReduceMean nodes to cut at")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    return SplitGraphs(_measuring(written_out, values), _restyling(written_out, values), names)


def _measuring(model: onnx.ModelProto, values: list[onnx.ValueInfoProto]) -> bytes:
    measuring = onnx.ModelProto()
    measuring.CopyFrom(model)
    del measuring.graph.output[:]
    measuring.graph.output.extend(values)
    return measuring.SerializeToString()


def _restyling(model: onnx.ModelProto, values: list[onnx.ValueInfoProto]) -> bytes:
    restyling = onnx.ModelProto()
    restyling.CopyFrom(model)
    _replace_nodes(restyling, [node for node in model.graph.node if node.op_type != "ReduceMean"])
    restyling.graph.input.extend(values)
    return restyling.SerializeToString()


def _write_out_normalizations(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with every InstanceNormalization as mean, variance, scale and shift."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += _written_out(node) if node.op_type == "InstanceNormalization" else [node]
    _replace_nodes(result, nodes)
    constants = {"statistics/axes": np.array([2, 3]), "statistics/channels": np.array([1, -1, 1, 1])}
    result.graph.initializer.extend(numpy_helper.from_array(v.astype(np.int64), k) for k, v in constants.items())
    return result


def _written_out(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """InstanceNormalization of x (batch, channels, height, width) by its definition in ONNX."""
    x, scale, shift = node.input
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    prefix = f"{node.output[0]}/"

    def make(operator: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    p = prefix
    return [
        make("Constant", [], f"{p}epsilon", value=helper.make_tensor("", TensorProto.FLOAT, [], [epsilon])),
        make("ReduceMean", [x, "statistics/axes"], f"{p}mean"),
        make("Sub", [x, f"{p}mean"], f"{p}centered"),
        make("Mul", [f"{p}centered", f"{p}centered"], f"{p}squared"),
        make("ReduceMean", [f"{p}squared", "statistics/axes"], f"{p}variance"),
        make("Add", [f"{p}variance", f"{p}epsilon"], f"{p}stable"),
        make("Sqrt", [f"{p}stable"], f"{p}deviation"),
        make("Reshape", [scale, "statistics/channels"], f"{p}scale"),
        make("Reshape", [shift, "statistics/channels"], f"{p}shift"),
        make("Div", [f"{p}scale", f"{p}deviation"], f"{p}gain"),
        make("Mul", [f"{p}centered", f"{p}gain"], f"{p}scaled"),
        make("Add", [f"{p}scaled", f"{p}shift"], node.output[0]),
    ]


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
