import numpy as np
import pytest

from imaging import colors

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(60, 200, (20, 30, 3), np.uint8)


def test_luminance_is_gray_and_as_bright():
    gray = colors.luminance(PHOTO)
    assert (gray == gray[..., :1]).all()
    np.testing.assert_allclose(gray[..., 0], PHOTO @ np.array([0.299, 0.587, 0.114]), atol=0.5001)


def test_the_colors_of_a_photo_stay_and_only_the_brightness_changes():
    painted = colors.with_colors_of(colors.luminance(PHOTO) + 20.0, PHOTO)
    np.testing.assert_allclose(painted - PHOTO, 20, atol=1)


def test_matched_colors_have_the_painting_s_mean_and_covariance():
    painting = RNG.normal(100, 30, (40, 40, 3)) @ RNG.normal(size=(3, 3))
    matched = colors.match_colors(PHOTO, [painting], np.array([1.0])).reshape(-1, 3)
    np.testing.assert_allclose(matched.mean(0), painting.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(np.cov(matched.T), np.cov(painting.reshape(-1, 3).T), rtol=0.05)


@pytest.mark.parametrize("flat", [np.zeros((8, 8, 3)), np.repeat(RNG.normal(size=(8, 8, 1)), 3, axis=2)])
def test_matching_a_picture_without_colors_gives_numbers(flat):
    assert np.isfinite(colors.match_colors(flat, [PHOTO], np.array([1.0]))).all()
    assert np.isfinite(colors.match_colors(PHOTO, [flat], np.array([1.0]))).all()
