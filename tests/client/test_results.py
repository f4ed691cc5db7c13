"""A progress record has the same fields in the optimization, on the server, in the models' configurations and in the client."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from unittest.mock import MagicMock

import numpy as np
import pytest
from reverie_client import PictureStep
from reverie_client.results import to_picture_steps
from tritonclient.utils import np_to_triton_dtype

from registry import configuration
from synthesis.progress import Progress

RECORD = Progress(
    step=1,
    steps=2,
    stage=3,
    loss=0.5,
    seconds=0.25,
    image=np.zeros((4, 5, 3), np.uint8),
    parts={"style": 0.125},
    frame=4,
    stopped="max_seconds",
    exact=False,
)
"""Every field has a value that no other has, and that is not its default."""


@pytest.fixture(params=["deepdream", "style_transfer"])
def outputs(request):
    """The tensors of a model's message as its configuration describes them, by name."""
    return {tensor.name: tensor for tensor in getattr(configuration, request.param)().outputs}


def test_a_picture_s_step_has_a_field_for_each_output_of_the_model(outputs):
    assert {field.name for field in fields(PictureStep)} == set(outputs)


@pytest.fixture
def to_outputs(monkeypatch):
    """The server's function from a record to a message; Triton's own module is in Triton's processes only."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    from serving.python_backend.image_stream import to_outputs

    return to_outputs


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_record_arrives_at_the_client_as_the_optimization_made_it(outputs, to_outputs):
    sent = to_outputs(RECORD, b"preview", done=True, shape=(4, 5, 3))
    described = {name: (tensor.type.removeprefix("TYPE_"), tensor.dims) for name, tensor in outputs.items()}
    assert {name: (triton_type(array), array.shape) for name, array in sent.items()} == described
    (received,) = to_picture_steps(sent)
    expected = asdict(replace(RECORD, image=None)) | {"image": b"preview", "shape": (4, 5, 3), "done": True}
    expected["loss_parts"] = expected.pop("parts")
    assert asdict(received) == expected


def triton_type(array: np.ndarray) -> str:
    """As configurations write it."""
    return np_to_triton_dtype(array.dtype).replace("BYTES", "STRING")


def test_the_record_of_this_test_tells_all_fields_apart():
    values = list(asdict(RECORD).values())
    untouched = asdict(Progress(step=0, steps=0, stage=0, loss=0.0, seconds=0.0))
    assert all(value is not untouched[name] for name, value in asdict(RECORD).items())
    assert len({repr(value) for value in values}) == len(values)
