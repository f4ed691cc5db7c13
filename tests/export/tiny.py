"""A version of `style` that takes milliseconds to make: it adds a number to every pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx.parity import Parity
from registry import configuration, golden, manifest
from registry.repository import Repository
from registry.staging import ExportResult, StagedVersion

STYLES = ("starry_night",)


def graph(shift: float, styles: tuple[str, ...] = STYLES) -> onnx.ModelProto:
    """stylized = image + shift + 0 * sum(style_weights), as uint8."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["style_weights"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["float", "shift"], ["shifted"]),
        helper.make_node("Add", ["shifted", "nothing"], ["same"]),
        helper.make_node("Clip", ["same", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["stylized"], to=TensorProto.UINT8),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3]),
        helper.make_tensor_value_info("style_weights", TensorProto.FLOAT, ["n", len(styles)]),
    ]
    outputs = [helper.make_tensor_value_info("stylized", TensorProto.UINT8, ["n", "h", "w", 3])]
    constants = {"shift": shift, "zero": 0.0, "least": 0.0, "most": 255.0}
    tensors = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()]
    made = helper.make_graph(nodes, f"style_{shift:g}", inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def stage(
    repository: Repository, shift: float = 1, styles: tuple[str, ...] = STYLES, loss: float = 1.0
) -> StagedVersion:
    """A version of `style`, staged as an export would stage it."""
    files = repository.staging("style") / "version"
    files.mkdir()
    (files / "model.onnx").write_bytes(graph(shift, styles).SerializeToString())
    (files / "styles.json").write_text(json.dumps(styles) + "\n")
    described = configuration.style(styles)
    picture = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    inputs = {"image": picture, "style_weights": np.ones((2, len(styles)), np.float32)}
    golden.record(files, described, inputs)
    add_manifest(files, styles, loss)
    return StagedVersion(ExportResult("style", ("stylize",), described, Parity(0, 0, "of 255", 1)), files)


def add_manifest(files: Path, styles: tuple[str, ...] = STYLES, loss: float = 1.0) -> None:
    """(Re)write the manifest of a staged version."""
    parity = {"largest": 0.0, "mean": 0.0, "unit": "of 255", "inputs": 1}
    facts = configuration.style(styles).facts
    manifest.describe(files, "style", "tiny", parity, {"held_out_loss": loss}, {}, facts, revision=None).write(files)
