"""Style networks for tests: one small enough to write down, with three styles, and the shipped one without a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = max((PROJECT / "model_repository" / "style").glob("*/model.onnx"), key=lambda p: int(p.parent.name))
COLORS = {"red": (90.0, 0.0, 0.0), "green": (0.0, 90.0, 0.0), "blue": (0.0, 0.0, 90.0)}


def shipped_network(graph: Path = SHIPPED) -> Callable[[np.ndarray], np.ndarray]:
    """The shipped network in its first style, uint8 (height, width, 3) to the same."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    weights = np.eye(1, len(json.loads((SHIPPED.parent / "styles.json").read_text())), dtype=np.float32)
    return lambda photo: session.run(["stylized"], {"image": photo[None], "style_weights": weights})[0][0]


def tinting_network() -> onnx.ModelProto:
    """Normalizes the picture (instance normalization) and adds the styles' colors: 80 + 20 normalized + weights."""
    constants = {
        "ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32), "colors": np.array([*COLORS.values()], np.float32),
        "spatial": np.array([2, 3]), "low": np.float32(0), "high": np.float32(255), "gain": np.float32(20), "gray": np.float32(80),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("InstanceNormalization", ["nchw", "ones", "zeros"], ["normal"]),
        helper.make_node("Mul", ["normal", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "gray"], ["base"]),
        helper.make_node("MatMul", ["style_weights", "colors"], ["tint"]),
        helper.make_node("Unsqueeze", ["tint", "spatial"], ["tint4"]),
        helper.make_node("Add", ["base", "tint4"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["whole"]),
        helper.make_node("Transpose", ["whole"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["nhwc"], ["stylized"], to=TensorProto.UINT8),
    ]
    shape = ["batch", "height", "width", 3]
    inputs = [("image", TensorProto.UINT8, shape), ("style_weights", TensorProto.FLOAT, ["batch", len(COLORS)])]
    graph = helper.make_graph(
        nodes,
        "tinting",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info("stylized", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def tint(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the network computes, in NumPy."""
    x = photo.astype(np.float32)
    normal = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    return np.clip(np.rint(80 + 20 * normal + weights @ np.array([*COLORS.values()])), 0, 255).astype(np.uint8)


def with_mirrored_margin(network: Callable[..., np.ndarray], photo: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """What `stylize` makes of a photograph with a network: 32 mirrored pixels on each side are painted and cut off."""
    return network(np.pad(photo, ((32, 32), (32, 32), (0, 0)), "reflect"), *weights)[32:-32, 32:-32]


def tint_as_version(
    photo: np.ndarray, weights: np.ndarray, client: str = "", version: int = 1
) -> tuple[np.ndarray, int]:
    """The network as `Stylist` calls it."""
    return tint(photo, weights), version


def write_version(folder: Path) -> Path:
    """The network's files as a version folder of model `style`."""
    folder.mkdir(parents=True)
    onnx.save(tinting_network(), folder / "model.onnx")
    (folder / "styles.json").write_text(json.dumps([*COLORS]))
    return folder


def write_repository(repository: Path, **settings: int) -> Path:
    """A repository with `style`, this network, and the shipped `stylize` with other `settings`."""
    from registry import configuration

    write_version(repository / "style" / "1")
    (repository / "style" / "config.pbtxt").write_text(configuration.style(tuple(COLORS)).text())
    shutil.copytree(PROJECT / "model_repository" / "stylize", repository / "stylize")
    config = repository / "stylize" / "config.pbtxt"
    kept = [line for line in config.read_text().splitlines() if not any(f'key: "{name}"' in line for name in settings)]
    changed = [f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in settings.items()]
    config.write_text("\n".join([*kept, *changed]) + "\n")
    return repository
