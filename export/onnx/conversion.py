"""Keras to ONNX by tf2onnx, and what the converter's graph still needs.

`from_function` with named `TensorSpec`s, because tf2onnx's `from_keras` fails on Keras 3.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import helper, numpy_helper

OPSET = 18
_FLOAT16_FROM = 1024
"""Smaller tensors (scales, shapes, biases) stay float32: they cost nothing."""


def convert(function: Callable, inputs: Sequence[tf.TensorSpec], output: str, name: str) -> onnx.ModelProto:
    """Trace `function` and convert it.

    Args:
        function: takes one tensor for each of `inputs`, returns one tensor.
        inputs: named specifications; names become the graph's inputs.
        output: the graph's output name.
        name: of the model; the graph is called `<name>_<hash of its weights>`, because a TensorRT engine
            cache keys on the graph's name and not on its weights (microsoft/onnxruntime#6455).
    """
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model, _ = tf2onnx.convert.from_function(tf.function(function), input_signature=list(inputs), opset=OPSET)
    _rename_output(model, output)
    model.graph.name = f"{name}_{weights_hash(model)}"
    return model


def weights_hash(model: onnx.ModelProto) -> str:
    """SHA-256 (first 16 hex digits) over the initializers of a graph."""
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode())
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()[:16]


def store_weights_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Halve the file: large float32 weights become float16 and are cast back when the graph is loaded.

    Nothing is rounded: weights are to be rounded before, and constants that float16 would round stay. Arithmetic
    stays float32. Weights outside the range of float16 are refused.

    Raises:
        OverflowError: a weight is larger than float16 holds.
    """
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.size < _FLOAT16_FROM:
            continue
        if np.abs(weights).max() > np.finfo(np.float16).max:
            raise OverflowError(f"weight {tensor.name} has values up to {np.abs(weights).max():g}; float16 holds 65504")
        halved = weights.astype(np.float16)
        if not np.array_equal(halved, weights):
            continue
        full = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{full}/float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [full], name=f"{full}/cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def _rename_output(model: onnx.ModelProto, name: str) -> None:
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [name if o == output.name else o for o in node.output]
        node.input[:] = [name if i == output.name else i for i in node.input]
    output.name = name
