"""A version of `style` that takes milliseconds to make: it adds a number to every pixel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx.parity import Parity
from registry import configuration, golden, manifest
from registry.repository import Repository
from registry.staging import ExportResult, StagedVersion

STYLES = ("starry_night",)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a version though it answers its recorded inputs.

    Attributes:
        rounds: of a loop that does nothing, 1 to 3 microseconds each.
        widest: a wider picture fails; 0 for none.
    """

    rounds: int = 0
    widest: int = 0


SOUND = Fault()


def graph(shift: float, styles: tuple[str, ...] = STYLES, fault: Fault = SOUND) -> onnx.ModelProto:
    """stylized = image + shift + 0 * sum(style_weights), as uint8."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["style_weights"], ["sum"], keepdims=0),
        *_slow(),
        *_narrow(),
        helper.make_node("Sum", ["sum", "slow", "narrow"], ["all"]),
        helper.make_node("Mul", ["all", "zero"], ["nothing"]),
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
    tensors.append(numpy_helper.from_array(np.array(fault.rounds, np.int64), "rounds"))
    tensors.append(numpy_helper.from_array(np.array(fault.widest + 1 if fault.widest else 2**40, np.int64), "too_wide"))
    tensors.append(numpy_helper.from_array(np.array([0], np.int64), "axis"))
    made = helper.make_graph(nodes, f"style_{shift:g}", inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _slow() -> list[onnx.NodeProto]:
    """`slow`, which is 0 after `rounds` of a loop."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["value"], ["next"])],
        "round",
        [
            scalar("i", TensorProto.INT64, []),
            scalar("go", TensorProto.BOOL, []),
            scalar("value", TensorProto.FLOAT, []),
        ],
        [scalar("go_on", TensorProto.BOOL, []), scalar("next", TensorProto.FLOAT, [])],
    )
    return [helper.make_node("Loop", ["rounds", "", "zero"], ["slow"], body=body)]


def _narrow() -> list[onnx.NodeProto]:
    """`narrow`, which is 0 where the picture is not too wide; elsewhere there is no such element, which is an error."""
    return [
        helper.make_node("Shape", ["image"], ["width"], start=2, end=3),
        helper.make_node("Div", ["width", "too_wide"], ["index"]),
        helper.make_node("Unsqueeze", ["zero", "axis"], ["zeros"]),
        helper.make_node("Gather", ["zeros", "index"], ["one_zero"]),
        helper.make_node("Squeeze", ["one_zero"], ["narrow"]),
    ]


def stage(
    repository: Repository,
    shift: float = 1,
    styles: tuple[str, ...] = STYLES,
    loss: float | None = 1.0,
    fault: Fault = SOUND,
) -> StagedVersion:
    """A version of `style`, staged as an export would stage it."""
    files = repository.staging("style") / "version"
    files.mkdir()
    (files / "model.onnx").write_bytes(graph(shift, styles, fault).SerializeToString())
    (files / "styles.json").write_text(json.dumps(styles) + "\n")
    described = configuration.style(styles)
    picture = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    inputs = {"image": picture, "style_weights": np.ones((2, len(styles)), np.float32)}
    golden.record(files, described, inputs)
    add_manifest(files, styles, loss)
    return StagedVersion(ExportResult("style", ("stylize",), described, Parity(0, 0, "of 255", 1)), files)


def add_manifest(files: Path, styles: tuple[str, ...] = STYLES, loss: float | None = 1.0) -> None:
    """(Re)write the manifest of a staged version."""
    parity = {"largest": 0.0, "mean": 0.0, "unit": "of 255", "inputs": 1}
    facts = configuration.style(styles).facts
    manifest.describe(
        files, "style", "tiny", parity, {} if loss is None else {"held_out_loss": loss}, {}, facts, revision=None
    ).write(files)
