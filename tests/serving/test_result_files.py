"""Pictures of a job as files: transparency, colors, and zoom sequences."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from imaging import images
from serving.python_backend.result_files import ResultFiles
from synthesis.deepdream import zoomed

pytestmark = pytest.mark.tensorflow

PIXELS = np.full((40, 60, 3), 80, np.uint8)
ALPHA = images.resize(np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8), 40, 60)


def alpha_in(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).getchannel("A"))


@pytest.mark.parametrize("format", ["png", "webp"])
def test_transparency_is_kept_where_the_format_has_it(format):
    np.testing.assert_array_equal(alpha_in(ResultFiles(ALPHA).encode(PIXELS, format)), ALPHA)


def test_where_there_is_none_the_picture_is_on_white():
    on_white = images.on_white(PIXELS, ALPHA)
    assert ResultFiles(ALPHA).encode(PIXELS, "raw") == on_white.tobytes()
    assert np.abs(images.decode(ResultFiles(ALPHA).encode(PIXELS, "jpeg", 100)).astype(int) - on_white).max() < 12
    assert ResultFiles().encode(PIXELS, "raw") == PIXELS.tobytes()


def test_in_a_zoom_sequence_the_transparency_is_enlarged_with_the_picture():
    files, expected = ResultFiles(ALPHA, zoom=1.5), ALPHA
    for zooms in (0, 0, 1, 2, 2):
        expected = ALPHA
        for _ in range(zooms):
            expected = zoomed(expected, 1.5)
        np.testing.assert_array_equal(alpha_in(files.encode(PIXELS, "png", zooms=zooms)), expected)
