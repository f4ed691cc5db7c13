import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.reference.book import BookTransfer
from synthesis.loss_terms import ContentLoss, StyleLoss, Sum, TotalVariation
from synthesis.losses import gram_matrix

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
    """A small network whose layers have the names of VGG19's."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    image = x = keras.Input((None, None, 3))
    for i, name in enumerate((*BookTransfer.STYLE, BookTransfer.CONTENT)):
        x = keras.layers.Conv2D(4 + i, 3, padding="same", activation="relu", name=name)(x)
    return keras.Model(image, x)


def pictures(count=3):
    return [tf.constant(RNG.uniform(0, 255, (1, 16, 20, 3)).astype(np.float32)) for _ in range(count)]


def activations_of(network, picture):
    names = (*BookTransfer.STYLE, BookTransfer.CONTENT)
    outputs = keras.Model(network.inputs, [network.get_layer(name).output for name in names])(picture)
    return dict(zip(names, outputs, strict=True))


def test_the_book_s_objective_in_one_line_has_the_value_and_the_gradient_of_its_listings(network):
    photo, painting, picture = pictures()
    content = activations_of(network, photo)[BookTransfer.CONTENT]
    grams = {name: gram_matrix(activations_of(network, painting)[name]) for name in BookTransfer.STYLE}
    style = Sum.of(StyleLoss(name, gram) for name, gram in grams.items())
    objective = 2.5e-8 * ContentLoss(BookTransfer.CONTENT, content) + 1e-6 / 5 * style + 1e-6 * TotalVariation()
    with tf.GradientTape() as tape:
        tape.watch(picture)
        loss = objective(picture, activations_of(network, picture))
    book = BookTransfer(network)
    expected, gradient = book.loss_and_gradient(picture, photo, painting)
    assert float(loss[0]) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, picture), gradient, rtol=1e-3, atol=1e-6 * np.abs(gradient).max())


def test_a_sum_knows_the_layers_that_it_needs_each_once():
    objective = 2 * ContentLoss("deep", None) + StyleLoss("shallow", None) + StyleLoss("deep", None) + TotalVariation()
    assert objective.layers == ("deep", "shallow")


@pytest.mark.parametrize("weight", [2.0, np.float32(2), np.float64(2), tf.constant(2.0), tf.constant([2.0, 2.0])])
def test_a_weight_of_any_kind_multiplies_all_terms_of_a_sum(weight):
    image = tf.concat(pictures(2), axis=0)
    plain = TotalVariation() + 3.0 * TotalVariation()
    np.testing.assert_allclose((weight * plain)(image, {}), 8 * TotalVariation()(image, {}), rtol=1e-6)


def test_each_image_of_a_batch_has_a_loss_of_its_own(network):
    photo, painting, picture = pictures()
    both = tf.concat([photo, picture], axis=0)
    gram = gram_matrix(activations_of(network, painting)["block1_conv1"])
    objective = StyleLoss("block1_conv1", gram) + TotalVariation()
    alone = [objective(p, activations_of(network, p))[0] for p in (photo, picture)]
    np.testing.assert_allclose(objective(both, activations_of(network, both)), alone, rtol=1e-5)


def test_the_style_loss_of_regions_is_the_sum_over_them():
    layer, masks = RNG.normal(size=(1, 4, 5, 3)).astype(np.float32), np.zeros((2, 4, 5, 1), np.float32)
    masks[0, :2], masks[1, 2:] = 1, 1
    image, target = np.zeros((1, 8, 10, 3), np.float32), np.zeros((2, 3, 3), np.float32)
    upper, lower = (np.einsum("hwc,hwd->cd", half, half) for half in (layer[0, :2], layer[0, 2:]))
    expected = ((upper**2).sum() + (lower**2).sum()) / (4 * 3**2 * 80**2)
    assert float(StyleLoss("x", target, masks)(image, {"x": layer})[0]) == pytest.approx(expected, rel=1e-5)


def test_what_was_measured_gives_each_term_without_its_weight():
    measured = (5.0 * TotalVariation()).measure(image := pictures(1)[0], {})
    np.testing.assert_allclose(measured["total_variation"], TotalVariation()(image, {}))
    np.testing.assert_allclose(measured.total, 5 * measured["total_variation"])
