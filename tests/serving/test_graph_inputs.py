"""Whose fault a failed run is: what the caller sent wrong is told apart from a broken model."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from reverie.errors import InputError
from serving.triton.graph_inputs import RECORDED, RECORDED_INPUT, GraphInputs, ModelError, Samples
from tests.serving.shipped import FIRST_STYLE, STYLE_INPUT, newest

FLOATS = TensorProto.FLOAT


class Served:
    """A graph as the backend runs it."""

    def __init__(self, graph: bytes | str, samples: Samples | None = None):
        self.session = ort.InferenceSession(graph, _quiet(), providers=["CPUExecutionProvider"])
        self.inputs = GraphInputs(self.session.get_inputs(), samples or Samples())

    def run(self, feeds):
        return self.session.run(None, dict(feeds))

    def __call__(self, **feeds: np.ndarray):
        self.inputs.check(feeds)
        try:
            return self.run(feeds)
        except Exception as error:
            raise self.inputs.failure(error, feeds, self.run) from None


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def graph(nodes, inputs, constants=()) -> bytes:
    """A graph of `nodes` with the output `y`."""
    values = [helper.make_tensor_value_info(name, type_, dims) for name, (type_, dims) in inputs.items()]
    output = helper.make_tensor_value_info("y", FLOATS, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in dict(constants).items()]
    made = helper.make_graph(nodes, "tested", values, [output], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def node(kind, *inputs, output="y", **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def shipped(model: str, samples: Samples | None = None) -> Served:
    folder = newest(model)
    return Served(str(folder / "model.onnx"), samples or Samples.read(folder, {}))


@pytest.fixture(scope="module")
def style() -> Served:
    return shipped("style")


@pytest.fixture(scope="module")
def language_model() -> Served:
    return shipped(
        "language_model",
        Samples(({"token_ids": np.ones((1, 2), np.int32)}, {"token_ids": np.ones((1, 257), np.int32)})),
    )


def pixels(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [
        (pixels(1, 32, 32, 3).astype(np.float32), FIRST_STYLE, "image: type float32; accepted: uint8"),
        (pixels(1, 32, 32, 3), FIRST_STYLE.astype(np.float64), f"{STYLE_INPUT}: type float64; accepted: float32"),
        (pixels(32, 32, 3), FIRST_STYLE, r"image: shape \[32, 32, 3\]; accepted: \[any, any, any, 3\]"),
        (pixels(1, 32, 32, 4), FIRST_STYLE, r"image: shape \[1, 32, 32, 4\]"),
        (pixels(1, 0, 32, 3), FIRST_STYLE, "none of them 0"),
        (pixels(0, 32, 32, 3), FIRST_STYLE[:0], "none of them 0"),
        (pixels(1, 32, 32, 3), FIRST_STYLE[:, 1:], f"{STYLE_INPUT}: shape"),
        (pixels(2, 32, 32, 3), FIRST_STYLE, f"batch: 1 in {STYLE_INPUT}, 2 in image; accepted: the same in both"),
        (pixels(1, 32, 32, 3), FIRST_STYLE * np.float32("nan"), f"{STYLE_INPUT}: holds NaN or infinity"),
        (pixels(1, 32, 32, 3), FIRST_STYLE - np.float32("inf"), f"{STYLE_INPUT}: holds NaN or infinity"),
        (pixels(1, 1, 1, 3), FIRST_STYLE, "image has 1 on axis 1"),
        (pixels(1, 32, 5, 3), FIRST_STYLE, "image has "),
    ],
)  # fmt: skip
def test_what_the_style_network_cannot_take_is_the_caller_s_fault(style, image, given, expected):
    with pytest.raises(InputError, match=expected):
        style(image=image, **{STYLE_INPUT: given})


def ids_with(value: int, position: int) -> np.ndarray:
    """Two rows of ids, one of which has `value` at a position."""
    ids = np.full((2, 9), 9, np.int32)
    ids[1, position] = value
    return ids


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.ones((1, 4), np.int64), "token_ids: type int64"),
        (np.ones((1, 0), np.int32), "none of them 0"),
        (np.ones((1, 1), np.int32), "token_ids has 1 on axis 1; known to be accepted: 2 to 257"),
        (np.ones((1, 258), np.int32), "token_ids has 258 on axis 1"),
        *((ids_with(value, at), f"token_ids holds {value}") for at in (0, 1, -1) for value in (8192, 10**6, 2**31 - 1)),
        *((ids_with(-(2**31), at), "token_ids holds -2147483648") for at in (0, 1, -1)),
    ],
)
def test_what_the_language_model_cannot_take_is_the_caller_s_fault(language_model, ids, expected):
    with pytest.raises(InputError, match=expected):
        language_model(token_ids=ids)


def test_what_a_version_takes_is_run(style, language_model):
    assert style(image=pixels(2, 33, 20, 3), **{STYLE_INPUT: np.repeat(FIRST_STYLE, 2, 0)})[0].shape == (2, 33, 20, 3)
    assert language_model(token_ids=np.ones((3, 257), np.int32))[0].shape == (3, 256)


def test_unnamed_sizes_that_do_not_go_together_are_the_caller_s_fault():
    served = Served(graph([node("Add", "a", "b")], {"a": (FLOATS, [None, None]), "b": (FLOATS, [None, None])}))
    served(a=np.ones((1, 4), np.float32), b=np.ones((1, 4), np.float32))
    with pytest.raises(InputError, match="of its inputs do not go together"):
        served(a=np.ones((1, 4), np.float32), b=np.ones((1, 3), np.float32))


X = {"x": (FLOATS, ["batch", None])}
INDEX_BEYOND_ITS_TABLE = graph(
    [node("Gather", "table", "index", output="row"), node("Add", "x", "row")],
    X | {"index": (TensorProto.INT64, ["batch"])},
    {"table": np.zeros(4, np.float32)},
)
WRONG_RESHAPE = graph([node("Reshape", "x", "shape")], X, {"shape": np.array([7, 11])})
WRONG_WIDTH = graph([node("MatMul", "x", "w")], X, {"w": np.zeros((5, 2), np.float32)})
ADDS_A_CONSTANT_OF_ANOTHER_SIZE = graph([node("Add", "x", "c")], X, {"c": np.zeros(9, np.float32)})
BROKEN = [WRONG_RESHAPE, WRONG_WIDTH, ADDS_A_CONSTANT_OF_ANOTHER_SIZE]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("samples", [(), (1, 8), (8, 16)])
def test_a_broken_model_is_not_its_caller_s_fault(broken, samples):
    known = Samples(tuple({"x": np.ones((1, n), np.float32)} for n in samples))
    with pytest.raises(ModelError, match=r"the model failed on x \[1, 4\], which it should take"):
        Served(broken, known)(x=np.ones((1, 4), np.float32))


def test_an_index_of_the_model_s_own_is_not_its_caller_s_fault():
    own = graph(
        [
            node("Cast", "x", output="index", to=TensorProto.INT64),
            node("Add", "index", "far", output="beyond"),
            node("Gather", "table", "beyond"),
        ],
        X,
        {"table": np.zeros(4, np.float32), "far": np.array(1000)},
    )
    with pytest.raises(ModelError):
        Served(own)(x=np.ones((1, 4), np.float32))


def test_an_index_of_the_caller_s_is():
    served = Served(INDEX_BEYOND_ITS_TABLE)
    with pytest.raises(InputError, match="index holds 99, which is out of bounds"):
        served(x=np.ones((1, 4), np.float32), index=np.array([99]))


def test_a_version_s_samples_are_its_recorded_inputs_and_its_warm_up(tmp_path):
    np.savez(tmp_path / RECORDED, **{f"{RECORDED_INPUT}image": pixels(2, 40, 48, 3), "out:stylized": pixels(1)})
    inputs = {"image": {"data_type": "TYPE_UINT8", "dims": ["256", "64", "3"], "zero_data": True},
              "weights": {"data_type": "TYPE_FP32", "dims": ["5"], "zero_data": True}}  # fmt: skip
    samples = Samples.read(tmp_path, {"max_batch_size": 8, "model_warmup": [{"batch_size": 1, "inputs": inputs}]})
    assert [samples.range_of("image", axis) for axis in range(4)] == [(1, 2), (40, 256), (48, 64), (3, 3)]
    assert samples.feeds[1]["weights"].dtype == np.float32
    assert samples.range_of("absent", 1) is None
