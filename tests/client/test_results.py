"""What the client makes of answers has the names that the models' configurations give them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from reverie_client import PictureStep

from registry import configuration


@pytest.mark.parametrize("model", ["deepdream", "style_transfer"])
def test_a_picture_s_step_has_a_field_for_each_output_of_the_model(model):
    described = getattr(configuration, model)()
    assert {field.name for field in fields(PictureStep)} == {tensor.name for tensor in described.outputs}
