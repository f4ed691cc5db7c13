import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.client.messages import bytes_tensor, to_arrays, to_request


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
