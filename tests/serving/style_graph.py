"""Style networks for tests: one small enough to write down, with three styles, and the shipped one without a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from serving.style.choice import StyleChooser, StyleInput
from serving.style.library import StyleLibrary
from serving.style.stylist import Network, Stylist
from serving.style.table import VECTOR, WEIGHTS, StyleTable

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = max((PROJECT / "model_repository" / "style").glob("*/model.onnx"), key=lambda p: int(p.parent.name))
COLORS = {"red": (90.0, 0.0, 0.0), "green": (0.0, 90.0, 0.0), "blue": (0.0, 0.0, 90.0)}
NETWORK = "0123456789abcdef"
"""Hash of the network that takes colors."""


def shipped_network(graph: Path = SHIPPED) -> Callable[[np.ndarray], np.ndarray]:
    """The shipped network in its first style, uint8 (height, width, 3) to the same."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    first = StyleTable.read(SHIPPED.parent).inputs()[0]
    return lambda photo: session.run(["stylized"], {"image": photo[None], **first})[0][0]


def tinting_network(takes_vectors: bool = False) -> onnx.ModelProto:
    """Normalizes the picture (instance normalization) and adds the style's color: 80 + 20 normalized + color.

    Args:
        takes_vectors: the color itself comes in, as a vector; else weights over `COLORS`.
    """
    taken = VECTOR if takes_vectors else WEIGHTS
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
        helper.make_node("Identity", [VECTOR], ["tint"])
        if takes_vectors
        else helper.make_node("MatMul", [WEIGHTS, "colors"], ["tint"]),
        helper.make_node("Unsqueeze", ["tint", "spatial"], ["tint4"]),
        helper.make_node("Add", ["base", "tint4"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["whole"]),
        helper.make_node("Transpose", ["whole"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["nhwc"], ["stylized"], to=TensorProto.UINT8),
    ]
    shape = ["batch", "height", "width", 3]
    inputs = [("image", TensorProto.UINT8, shape), (taken, TensorProto.FLOAT, ["batch", len(COLORS)])]
    graph = helper.make_graph(
        nodes,
        "tinting",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info("stylized", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if not (takes_vectors and k == "colors")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def tint(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the network computes, in NumPy."""
    return tint_with(photo, weights @ np.array([*COLORS.values()]))


def tint_with(photo: np.ndarray, color: np.ndarray) -> np.ndarray:
    """The same with a color of one's own."""
    x = photo.astype(np.float32)
    normal = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    return np.clip(np.rint(80 + 20 * normal + color), 0, 255).astype(np.uint8)


def with_mirrored_margin(network: Callable[..., np.ndarray], photo: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """What `stylize` makes of a photograph with a network: 32 mirrored pixels on each side are painted and cut off."""
    return network(np.pad(photo, ((32, 32), (32, 32), (0, 0)), "reflect"), *weights)[32:-32, 32:-32]


def tint_as_version(photo: np.ndarray, style: StyleInput, client: str = "", folder: Path = Path()) -> np.ndarray:
    """The network as `Stylist` calls it."""
    vector = style[VECTOR][0] if VECTOR in style else style[WEIGHTS][0] @ np.array([*COLORS.values()])
    return tint_with(photo, vector)


def stylist_of(network: Network, *folders: Path, library: StyleLibrary | None = None) -> Stylist:
    """A stylist with a version; where there is a second, it is a canary that gets every call."""
    return Stylist(network, StyleChooser(folders[0], lambda: folders[-1], library))


def color_table(network: str = NETWORK) -> StyleTable:
    """The colors as vectors."""
    return StyleTable.of_vectors([*COLORS], np.array([*COLORS.values()], np.float32), network)


def write_version(folder: Path, network: str = "") -> Path:
    """The network's files as a version folder of model `style`.

    Args:
        network: hash of the network that vectors fit; without one it takes weights.
    """
    folder.mkdir(parents=True)
    onnx.save(tinting_network(bool(network)), folder / "model.onnx")
    table = color_table(network) if network else StyleTable.of_weights([*COLORS])
    table.write(folder)
    return folder


def write_repository(repository: Path, network: str = "", **settings: int) -> Path:
    """A repository with `style`, this network, and the shipped `stylize` with other `settings`; `network` as in `write_version`."""
    from registry import configuration

    write_version(repository / "style" / "1", network)
    described = configuration.style(tuple(COLORS), len(COLORS) if network else 0, network)
    (repository / "style" / "config.pbtxt").write_text(described.text())
    shutil.copytree(PROJECT / "model_repository" / "stylize", repository / "stylize")
    config = repository / "stylize" / "config.pbtxt"
    kept = [line for line in config.read_text().splitlines() if not any(f'key: "{name}"' in line for name in settings)]
    changed = [f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in settings.items()]
    config.write_text("\n".join([*kept, *changed]) + "\n")
    return repository
