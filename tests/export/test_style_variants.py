import keras
import numpy as np
import onnx
import pytest

from export.onnx import parity
from export.onnx.parity import PrecisionError
from export.onnx.precision import Precision
from export.style.export import graph_in
from export.style.variants import LIMITS, Departure, check, departure, session_paint
from export.style.vectors import style_vectors
from registry import configuration, golden
from registry.golden import RecordingError
from reverie.onnx_sessions import open_session
from serving.style.statistics import split_statistics
from synthesis.style.network import StyleNetworkConfig, build


def pictures(count, side=48):
    """Smooth, as photographs are."""
    rng = np.random.default_rng(count)
    waves = np.sin(np.linspace(0, 6, side)[:, None, None] * rng.uniform(0.5, 2, (count, 1, 1, 3)))
    return ((waves * np.cos(np.linspace(0, 5, side))[:, None] + 1) * 127).astype(np.uint8)


@pytest.fixture(scope="module")
def network():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    network = build(StyleNetworkConfig(("a", "b"), width=24, blocks=2))
    rng = np.random.default_rng(1)
    for weight in network.weights:
        if len(weight.shape) == 2:
            weight.assign(rng.normal(1, 0.2, weight.shape))
    network.to_rgb.conv.kernel.assign(rng.normal(0, 0.05, network.to_rgb.conv.kernel.shape))
    return network


@pytest.fixture(scope="module")
def graphs(network):
    return {precision: graph_in(precision, network, pictures(4)) for precision in Precision}


@pytest.fixture(scope="module")
def inputs(network):
    """A picture and which style, to the graph's inputs."""
    rows = style_vectors(network)
    return lambda image, index=0: {"image": image[None], "style": rows[[index]]}


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.float16, Precision.int8])
def test_a_variant_s_pictures_are_float32_s_within_its_limit_and_not_the_same(graphs, inputs, precision):
    asked = [inputs(picture, i % 2) for i, picture in enumerate(pictures(3))]
    float32 = session_paint(graphs[Precision.float32])
    expected = [(one, float32(one)) for one in asked]
    assert np.abs(expected[0][1].astype(int) - asked[0]["image"]).mean() > 10
    found = check(precision, session_paint(graphs[precision]), expected)
    assert 0 < found.mean <= LIMITS[precision].mean


def test_what_departs_too_far_is_refused_with_the_figures():
    picture = pictures(1)
    with pytest.raises(
        PrecisionError, match=r"int8 departs from float32 by 100 of 255 .* accepted: 4 and 0.96; nothing"
    ):
        check(Precision.int8, lambda _: np.full_like(picture, 100), [({}, np.zeros_like(picture))])


def test_the_departure_is_the_mean_difference_and_the_worst_similarity():
    same, other = pictures(1), pictures(2)[1:]
    found = departure([(same, same), (same, other)])
    assert found.mean == pytest.approx(np.abs(same.astype(float) - other).mean() / 2)
    assert found.ssim < 0.9
    assert departure([(same, same)]) == Departure(0, 1)


def test_float16_s_normalizations_and_pictures_are_float32(graphs):
    graph = onnx.shape_inference.infer_shapes(graphs[Precision.float16]).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    assert {types[n.input[0]] for n in graph.node if n.op_type == "InstanceNormalization"} == {onnx.TensorProto.FLOAT}
    assert {types[n.input[0]] for n in graph.node if n.op_type == "Conv"} == {onnx.TensorProto.FLOAT16}
    assert {types[n.input[0]] for n in graph.node if n.op_type == "Round"} == {onnx.TensorProto.FLOAT}


def test_all_convolutions_but_those_on_the_way_down_and_the_last_are_8_bit(graphs):
    nodes = graphs[Precision.int8].graph.node
    dequantized = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    convolutions = [set(n.input[:2]) <= dequantized for n in nodes if n.op_type == "Conv"]
    assert convolutions == [False, False, *[True] * (len(convolutions) - 3), False]


def test_graphs_of_the_same_weights_are_named_apart(graphs):
    assert len({graph.graph.name for graph in graphs.values()}) == 3


@pytest.mark.parametrize("precision", Precision)
def test_statistics_taken_from_a_picture_give_its_own_restyling(graphs, inputs, precision):
    split = split_statistics(graphs[precision])
    asked = inputs(pictures(1)[0])
    found = parity.run_graph(graphs[precision], asked)
    measure, restyle = (onnx.load_from_string(g) for g in (split.measure, split.restyle))
    session = open_session(measure)
    statistics = dict(zip(split.statistics, session.run(list(split.statistics), asked), strict=True))
    again = parity.run_graph(restyle, asked | statistics)
    assert np.abs(again.astype(int) - found).max() <= (3 if precision is Precision.float32 else 8)


def test_a_server_may_answer_with_any_graph_of_the_version_and_with_nothing_else(graphs, inputs, tmp_path):
    (tmp_path / "model.onnx").write_bytes(graphs[Precision.int8].SerializeToString())
    (tmp_path / "model_float16.onnx").write_bytes(graphs[Precision.float16].SerializeToString())
    golden.record(tmp_path, configuration.style(("a", "b")), inputs(pictures(1)[0]))
    recorded = golden.read(tmp_path)
    assert set(recorded.answers) == {"model.onnx", "model_float16.onnx"}
    for answer in recorded.answers.values():
        golden.compare_any(answer, recorded)
    with pytest.raises(RecordingError, match="stylized: differs by"):
        golden.compare_any({"stylized": 255 - recorded.answers["model.onnx"]["stylized"]}, recorded)
