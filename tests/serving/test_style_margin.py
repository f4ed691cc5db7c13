"""The margin: a mirror image around the photograph, so that no painting's edge is painted into it."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging import images
from serving.style import stylist
from serving.style.choice import StyleInput
from serving.style.files import graph_for_tiles
from serving.style.margin import MARGIN, Margins
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Stylist
from tests.conftest import PICTURES
from tests.serving.style_graph import SHIPPED, stylist_of

BAND = 5.0
"""Of 255: what may be left at an edge, in the mean over the styles."""


@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.tuples(*[st.integers(0, 100)] * 4))
def test_margins_come_off_again_and_pictures_of_any_size_have_them(shape, sides):
    photo, margins = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), Margins(*sides)
    wide = margins.put_on(photo)
    assert wide.shape == (shape[0] + sides[0] + sides[1], shape[1] + sides[2] + sides[3], 3)
    np.testing.assert_array_equal(margins.take_off(wide), photo)


def test_a_margin_is_the_mirror_image_and_of_a_small_picture_several():
    row = np.array([[[1], [2], [3]]])
    assert Margins(0, 0, 5, 3).put_on(row)[0, :, 0].tolist() == [2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2]


@pytest.fixture(scope="module")
def shipped() -> Stylist:
    session = ort.InferenceSession(str(graph_for_tiles(SHIPPED.parent)), providers=["CPUExecutionProvider"])

    def network(photo: np.ndarray, style: StyleInput, *_: object) -> np.ndarray:
        return session.run(["stylized"], {"image": photo[None], **style})[0][0]

    return stylist_of(network, SHIPPED.parent)


def paintings(shipped: Stylist, photo: np.ndarray) -> list[np.ndarray]:
    """The photograph in every shipped style."""
    file = images.encode(photo)
    asked = [StylizeParameters(style=style, format="png") for style in shipped.styles()]
    return [images.decode(shipped.stylize(file, parameters)) for parameters in asked]


def bands(shipped: Stylist, photo: np.ndarray) -> list[float]:
    """What an edge adds to the last four rows there, at the lower edge and the upper one: mean over the styles.

    The same rows of the photograph, where it does not end there but goes on as its mirror image, are compared with.
    """
    rows, tall = 4, np.pad(photo, ((128, 128), (0, 0), (0, 0)), "reflect")
    changes = [
        short.astype(float) - long[128:-128]
        for short, long in zip(paintings(shipped, photo), paintings(shipped, tall), strict=True)
    ]
    return [abs(np.mean([change[edge].mean() for change in changes])) for edge in (slice(-rows, None), slice(rows))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pagoda.jpg", "cat.jpg"])
@pytest.mark.parametrize("untiled", [stylist.UNTILED_SIDE, 100], ids=["in one piece", "in tiles"])
def test_no_edge_of_a_painting_is_painted_into_a_photograph(shipped, monkeypatch, name, untiled):
    monkeypatch.setattr(stylist, "UNTILED_SIDE", untiled)
    photo = images.fit_within(images.read(PICTURES / name), 300)
    assert max(bands(shipped, photo)) < BAND


@pytest.mark.parametrize("shape", [(16, 16), (17, 131), (48, 49), (97, 33)])
def test_a_restyled_picture_of_any_shape_keeps_its_size(shipped, shape):
    photo = images.resize(images.read(PICTURES / "cat.jpg"), *shape)
    assert {painting.shape for painting in paintings(shipped, photo)} == {photo.shape}


def test_the_margin_keeps_the_network_s_cells_where_they_are_without_it():
    assert MARGIN % 16 == 0
