"""The style network as an ONNX graph, built from the trained Keras weights.

Pictures are uint8 (batch, height, width, 3) at the edge and float32 NCHW inside. Against what a converter makes:
normalizations are `InstanceNormalization` nodes, reflection pads are one node each, and nothing is transposed
between the layers. A style comes in as a vector (`export.style.vectors`), of which each layer takes its part. Enlarging before a 3x3 convolution is merged into it (see `_enlarging_convolution`).
Normalization and the pictures themselves are float32 whatever the convolutions are in: a fully float16
`InstanceNormalization` gives wrong results in ONNX Runtime (microsoft/onnxruntime#10079).
"""

from __future__ import annotations

import numpy as np
import onnx
from keras import ops
from numpy.typing import ArrayLike
from onnx import TensorProto

from export.onnx import conversion
from export.onnx.builder import Graph, value
from export.style import vectors
from serving.style.table import VECTOR
from synthesis.style.network import (
    EPSILON,
    ConditionalInstanceNormalization,
    ConvNorm,
    Residual,
    StyleNetwork,
    ToRGB,
)

_HEIGHT_WIDTH = np.array([2, 3])
PHASES = "/phases"
"""After the name of a kernel that is merged with enlarging."""


def weight_name(index: int) -> str:
    """Of the constant that holds a network's variable; `export.style.restore` finds it by this."""
    return f"weight/{index}"


class StyleGraph:
    """A graph in the making; methods take and return names of tensors.

    Args:
        network: trained; its weights are rounded to float16.
        name: of the model; the graph's name is this and a hash of the weights.
        merges: whether enlarging is merged into 3x3 convolutions; else it is a `Resize` node.
        float_type: of the convolutions, np.float32 or np.float16.
        stores_float16: whether float32 graphs keep their weights as float16 and cast them.

    Attributes:
        stages: once `model` has been called, each layer's output (batch, channels, height, width), by the names of
            `StyleNetwork.stages`.
    """

    def __init__(
        self,
        network: StyleNetwork,
        name: str,
        merges: bool = True,
        float_type: type = np.float32,
        stores_float16: bool = True,
    ):
        self._network, self._name, self._merges = network, name, merges
        self._stores_float16 = stores_float16
        self._graph = Graph(float_type)
        self._names = {id(variable): weight_name(i) for i, variable in enumerate(network.variables)}
        self._made = 0
        self._parts: dict[int, str] = {}
        self.stages: dict[str, str] = {}

    def model(self) -> onnx.ModelProto:
        """The whole graph: `image` and `style` to `stylized`."""
        self._split_style()
        pixels = self._op("Transpose", self._op("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        scaled = self._op("Mul", pixels, self._constant(np.float32(1 / 127.5)))
        photo = self._op("Sub", scaled, self._constant(np.float32(1)))
        added = self._float32(self._added(self._graph_float(self._padded(photo))))
        added = self._cropped(added, photo)
        painted = self._op("Add", self._op("Mul", photo, self._of_style(self._network.to_rgb.share)), added)
        shifted = self._op("Add", painted, self._constant(np.float32(1)))
        painted = self._op("Mul", shifted, self._constant(np.float32(127.5)))
        limits = [self._constant(np.float32(limit)) for limit in (0, 255)]
        clipped = self._op("Clip", self._op("Round", painted), *limits)
        self._graph.op("Cast", self._op("Transpose", clipped, perm=[0, 2, 3, 1]), name="stylized", to=TensorProto.UINT8)
        return self._finished()

    def _finished(self) -> onnx.ModelProto:
        sides = ["batch", "height", "width", 3]
        numbers = sum(vectors.lengths(self._network))
        inputs = [value("image", TensorProto.UINT8, sides), value(VECTOR, TensorProto.FLOAT, ["batch", numbers])]
        model = self._graph.model(self._name, inputs, [value("stylized", TensorProto.UINT8, sides)])
        model.graph.name = f"{self._name}_{conversion.weights_hash(model)}"
        return model

    def _added(self, photo: str) -> str:
        """What the network adds to its share of a photograph, both in [-1, 1]."""
        network = self._network
        x = first = self._stage("down 0", self._conv_norm(photo, network.down[0]))
        for i, layer in enumerate(network.down[1:], 1):
            x = self._stage(f"down {i}", self._conv_norm(x, layer))
        for i, block in enumerate(network.residuals):
            x = self._stage(f"residual {i}", self._residual(x, block))
        for i, layer in enumerate(network.up):
            x = self._conv_norm(x, layer)
            x = self._stage(f"up {i}", self._op("Add", x, first) if network.skip and i == 0 else x)
        return self._to_rgb(x, network.to_rgb)

    def _stage(self, layer: str, x: str) -> str:
        self.stages[layer] = x
        return x

    # Layers.

    def _conv_norm(self, x: str, layer: ConvNorm) -> str:
        convolved = self._convolution(x, layer.conv, layer.padding, layer.enlarges)
        normal = self._normalization(convolved, layer.norm)
        return self._op("Relu", normal) if layer.activates else normal

    def _residual(self, x: str, block: Residual) -> str:
        return self._op("Add", x, self._conv_norm(self._conv_norm(x, block.first), block.second))

    def _to_rgb(self, x: str, layer: ToRGB) -> str:
        return self._convolution(x, layer.conv, layer.padding, layer.enlarges)

    def _normalization(self, x: str, norm: ConditionalInstanceNormalization) -> str:
        """Instance normalization, then the scale and shift of the style, which differ by picture."""
        channels = norm.gamma.shape[1]
        ones, zeros = self._constant(np.ones(channels, np.float32)), self._constant(np.zeros(channels, np.float32))
        normal = self._op("InstanceNormalization", self._float32(x), ones, zeros, epsilon=EPSILON)
        scaled = self._op("Mul", normal, self._of_style(norm.gamma))
        return self._graph_float(self._op("Add", scaled, self._of_style(norm.beta)))

    def _split_style(self) -> None:
        """The vector into the part of each variable that has a row for each style, (batch, channels, 1, 1)."""
        whole = self._op("Unsqueeze", VECTOR, self._constant(_HEIGHT_WIDTH))
        variables = list(vectors.style_variables(self._network))
        self._parts = {id(variable): f"style/{i}" for i, variable in enumerate(variables)}
        sizes = self._constant(np.array(vectors.lengths(self._network)))
        self._graph.op("Split", whole, sizes, name="style/parts", outputs=list(self._parts.values()), axis=1)

    def _of_style(self, variable) -> str:
        """The style's part for a variable of (styles, channels): (batch, channels, 1, 1)."""
        return self._parts[id(variable)]

    def _convolution(self, x: str, conv, padding: int, enlarges: bool) -> str:
        kernel = _array(conv.kernel).transpose(3, 2, 0, 1)
        if enlarges and self._merges and kernel.shape[2:] == (3, 3):
            return self._enlarging_convolution(x, conv, kernel)
        if enlarges:
            x = self._enlarged(x)
        padded = self._pad(x, [padding] * 4, "reflect")
        weights = self._kernel(self._names[id(conv.kernel)], kernel), *self._biases(conv, 1)
        return self._op("Conv", padded, *weights, strides=list(conv.strides))

    def _enlarging_convolution(self, x: str, conv, kernel: np.ndarray) -> str:
        """Nearest-neighbor enlarging, reflection padding by one and a 3x3 convolution, at the small size.

        A pixel of the enlarged picture sees two rows and two columns of the small one, so each of the four
        pixels that a small pixel becomes is a 2x2 convolution: 4/9 of the arithmetic, and no large tensor with
        many channels. The convolution gives all four at once as channels, `DepthToSpace` puts them in place,
        and one row and column at each side are over.
        """
        padded = self._pad(x, [1] * 4, "edge")
        weights = self._kernel(self._names[id(conv.kernel)] + PHASES, phase_kernels(kernel)), *self._biases(conv, 4)
        phases = self._op("Conv", padded, *weights, strides=[1, 1])
        spread = self._op("DepthToSpace", phases, blocksize=2)
        return self._op(
            "Slice", spread, self._constant(np.array([1, 1])), self._constant(np.array([-1, -1])), self._axes()
        )

    def _biases(self, conv, copies: int) -> list[str]:
        """The bias, one copy after another, if there is one."""
        if conv.bias is None:
            return []
        return [self._graph.floats(self._names[id(conv.bias)], np.tile(_array(conv.bias), copies))]

    def _kernel(self, name: str, kernel: np.ndarray) -> str:
        if self._stores_float16:
            return self._graph.stored(name, kernel)
        return self._graph.floats(name, kernel.astype(np.float16))

    def _enlarged(self, x: str) -> str:
        scales = self._constant(np.array([1, 1, 2, 2], np.float32))
        mode = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return self._op("Resize", x, "", scales, **mode)

    # Any size: reflected to the next multiple, cropped back.

    def _padded(self, photo: str) -> str:
        """The photograph, reflected below and at the right to what the network takes."""
        multiple = self._constant(np.array([self._network.config.multiple]))
        sides = self._op("Shape", photo, start=2, end=4)
        # Of positive operands only, since ONNX's Mod truncates toward zero.
        over = self._op("Mod", sides, multiple)
        missing = self._op("Mod", self._op("Sub", multiple, over), multiple)
        pads = self._op("Concat", self._constant(np.zeros(6, np.int64)), missing, axis=0)
        return self._op("Pad", photo, pads, mode="reflect")

    def _cropped(self, x: str, photo: str) -> str:
        sides = self._op("Shape", photo, start=2, end=4)
        return self._op("Slice", x, self._constant(np.array([0, 0])), sides, self._axes())

    # Small things.

    def _graph_float(self, x: str) -> str:
        """`x`, which is float32, in what the convolutions are in."""
        half = self._graph.element_type == TensorProto.FLOAT16
        return self._op("Cast", x, to=TensorProto.FLOAT16) if half else x

    def _float32(self, x: str) -> str:
        half = self._graph.element_type == TensorProto.FLOAT16
        return self._op("Cast", x, to=TensorProto.FLOAT) if half else x

    def _pad(self, x: str, sides: list[int], mode: str) -> str:
        """Args: `sides`: pixels at the top, left, bottom and right."""
        return self._op("Pad", x, self._constant(np.array([0, 0, *sides[:2], 0, 0, *sides[2:]])), mode=mode)

    def _axes(self) -> str:
        return self._constant(_HEIGHT_WIDTH)

    def _op(self, kind: str, *inputs: str, **attributes) -> str:
        return self._graph.op(kind, *inputs, name=self._new(kind), **attributes)

    def _constant(self, array: ArrayLike) -> str:
        return self._graph.constant(self._new("constant"), np.asarray(array))

    def _new(self, kind: str) -> str:
        self._made += 1
        return f"{kind}_{self._made}"


def phase_kernels(kernel: np.ndarray) -> np.ndarray:
    """Of a 3x3 kernel on an enlarged picture, the 2x2 kernels on the small one.

    Args:
        kernel: float (out, in, 3, 3).

    Returns:
        float (4 out, in, 2, 2), in the order of `DepthToSpace`.
    """
    # The even pixel of a pair sees (above, own, own), the odd one (own, own, below). A pair begins one pixel before
    # the row that `DepthToSpace` begins with, which is cropped, so odd pixels come first.
    even, odd = np.array([[1, 0, 0], [0, 1, 1]]), np.array([[1, 1, 0], [0, 0, 1]])
    phases = [np.einsum("oiyx,ay,bx->oiab", kernel, rows, columns) for rows in (odd, even) for columns in (odd, even)]
    return np.concatenate(phases)


def whole_kernels(phases: np.ndarray) -> np.ndarray:
    """The 3x3 kernels that `phase_kernels` made the 2x2 ones of.

    An odd phase holds (first + second, third), an even one (first, second + third); see there.

    Args:
        phases: float (4 out, in, 2, 2).

    Returns:
        float (out, in, 3, 3).
    """
    odd_odd, odd_even, even_odd, even_even = np.split(phases, 4)
    return _whole(_whole(odd_odd, odd_even, -1), _whole(even_odd, even_even, -1), -2)


def _whole(odd: np.ndarray, even: np.ndarray, axis: int) -> np.ndarray:
    first, both = np.split(even, 2, axis)
    _, third = np.split(odd, 2, axis)
    return np.concatenate([first, both - third, third], axis)


def _array(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32)
