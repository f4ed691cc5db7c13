import numpy as np
import pytest
import tensorflow as tf

from synthesis import losses

RNG = np.random.default_rng(0)


def test_the_gram_matrix_holds_inner_products_of_the_maps():
    features = RNG.normal(size=(1, 4, 5, 3)).astype(np.float32)
    expected = np.einsum("hwc,hwd->cd", features[0], features[0])
    np.testing.assert_allclose(np.asarray(losses.gram_matrix(features))[0], expected, rtol=1e-5)


def test_equal_gram_matrices_have_no_style_loss():
    gram = RNG.normal(size=(1, 3, 3)).astype(np.float32)
    assert float(losses.style_loss(gram, gram, 20.0)) == 0


def test_style_loss_is_the_book_s():
    a, b = RNG.normal(size=(2, 1, 3, 3)).astype(np.float32)
    assert float(losses.style_loss(a, b, 20.0)) == pytest.approx(((a - b) ** 2).sum() / (4 * 3**2 * 20.0**2), rel=1e-5)


def test_relative_error_is_zero_for_equal_and_one_for_nothing():
    target = np.array([3.0, -4.0], np.float32)
    assert float(losses.relative_error(target, target)) == 0
    assert float(losses.relative_error(np.zeros(2, np.float32), target)) == pytest.approx(1)


def test_total_variation_is_the_book_s():
    x = RNG.uniform(0, 255, (1, 6, 7, 3)).astype(np.float32)
    down, right = x[:, :-1, :-1] - x[:, 1:, :-1], x[:, :-1, :-1] - x[:, :-1, 1:]
    expected = ((down.astype(np.float64) ** 2 + right.astype(np.float64) ** 2) ** 1.25).sum()
    assert float(losses.total_variation(tf.constant(x))) == pytest.approx(expected, rel=1e-4)


def test_total_variation_of_a_flat_picture_has_a_gradient_of_zero_not_nan():
    flat = tf.fill((1, 4, 4, 3), 100.0)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        loss = losses.total_variation(flat)
    assert float(loss) == 0
    assert not np.asarray(tape.gradient(loss, flat)).any()
