import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reverie_client import Client, ReverieError
from reverie_client.messages import ParameterError, bytes_tensor, plain, to_arrays, to_request
from tritonclient.grpc import service_pb2


def answer_with(request):
    """A response that carries a request's inputs back as outputs."""
    response = service_pb2.ModelInferResponse()
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(raw)
    return response


@given(st.binary(max_size=100))
def test_bytes_survive_the_wire(value):
    assert to_arrays(answer_with(to_request("m", {"x": bytes_tensor(value)}, {})))["x"].item() == value


@given(st.sampled_from([np.uint8, np.int32, np.float32, np.bool_]), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_arrays_survive_the_wire(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    returned = to_arrays(answer_with(to_request("m", {"x": array}, {})))["x"]
    assert returned.dtype == array.dtype
    np.testing.assert_array_equal(returned, array)


def test_parameters_keep_their_types():
    parameters = to_request("m", {}, {"a": True, "b": 3, "c": 0.5, "d": "x"}).parameters
    assert parameters["a"].bool_param is True
    assert parameters["b"].int64_param == 3
    assert parameters["c"].double_param == 0.5
    assert parameters["d"].string_param == "x"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(0.25), 0.25),
        (np.array([0.5, 1.5], np.float32), "[0.5, 1.5]"),
        ((1, np.int32(2)), "[1, 2]"),
        ({np.int64(7): np.float32(-0.5)}, '{"7": -0.5}'),
        ({"red": np.array(0.5)}, '{"red": 0.5}'),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_numpy_s_values_travel_as_python_s_and_collections_as_json(value, expected):
    sent = plain("p", value)
    assert (sent, type(sent)) == (expected, type(expected))


def test_a_parameter_of_none_is_not_sent():
    assert list(to_request("m", {}, {"a": None, "b": 0}).parameters) == ["b"]


@pytest.mark.parametrize(
    "value",
    [b"x", object(), 1j, {1, 2}, 2**63, -(2**63) - 1, np.uint64(2**63), np.datetime64("2020-01-01"), [None], "\ud800",
     {"a": object()}, lambda: 0],
)  # fmt: skip
def test_a_parameter_of_another_type_is_refused_by_its_name(value):
    with pytest.raises(ParameterError, match=r"^INVALID_ARGUMENT: temperature: .*accepted: "):
        to_request("m", {}, {"temperature": value})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda c: c.stylize(None), "image"),
        (lambda c: c.stylize("photo.jpg"), "image"),
        (lambda c: c.stylize(np.zeros((16, 16, 3), np.uint8)), "image"),
        (lambda c: c.stylize(b"", styles={"red": object()}), "styles"),
        (lambda c: c.stylize(b"", style_vector=[]), "style_vector"),
        (lambda c: c.stylize(b"", style_vector=np.empty((0, 3), np.float32)), "style_vector"),
        (lambda c: c.stylize(b"", style_vector=[[1, 2], [3]]), "style_vector"),
        (lambda c: c.stylize(b"", style_vector="starry_night"), "style_vector"),
        (lambda c: c.stylize(b"", style_vector={"a": 1}), "style_vector"),
        (lambda c: c.generate(None), "prompt"),
        (lambda c: c.generate(b"x"), "prompt"),
        (lambda c: c.generate("\ud800"), "prompt"),
        (lambda c: c.generate("x", stop=[1]), "stop"),
        (lambda c: c.generate("x", stop=3), "stop"),
        (lambda c: c.generate("x", logit_bias={object(): 1}), "logit_bias"),
        (lambda c: c.generate("x", max_tokens=2**70), "max_tokens"),
        (lambda c: c.generate("x", timeout="soon"), "timeout"),
        (lambda c: c.score(3), "text"),
        (lambda c: c.score("x", timeout=[1]), "timeout"),
        (lambda c: c.dream(b"", guide_image="x"), "guide_image"),
        (lambda c: c.transfer(b"", np.zeros((16, 16, 3), np.uint8)), "style_image"),
        (lambda c: c.transfer(b"", [b"", None]), "style_image"),
        (lambda c: c.transfer(b"", b"", style_mask=[3]), "style_mask"),
        (lambda c: c.infer("style", {"image": [1]}, version="1"), "image"),
        (lambda c: c.infer("style", {"image": np.array(["x"])}, version="1"), "image"),
    ],
)
def test_what_a_call_cannot_send_is_an_invalid_argument_by_its_name(call, name):
    with Client("127.0.0.1:1") as client, pytest.raises(ReverieError, match=f"INVALID_ARGUMENT: {name}: ") as caught:
        call(client)
    assert "accepted: " in caught.value.message
