import numpy as np
import pytest
import tensorflow as tf

from synthesis import deepdream, features, images
from synthesis.deepdream import DeepDreamParameters, dream
from synthesis.progress import Cancelled

LAYERS = {"block4_conv1": 1.0, "block5_conv1": 2.0}
PARAMETERS = DeepDreamParameters(layers=LAYERS, features="compact", iterations=3, num_octave=2, max_loss=0)


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    return images.resize(coarse, 120, 132)


def dream_on_unit_pixels(image: np.ndarray, parameters: DeepDreamParameters) -> np.ndarray:
    """Section 12.2 in its own units: pixels in [-1, 1], step as it is given, one plain loop."""
    extract = features.load(parameters.features, tuple(parameters.layers))
    original = tf.constant(image[None] / np.float32(127.5) - 1)
    shapes = [
        tuple(int(d / parameters.octave_scale**i) for d in image.shape[:2]) for i in range(parameters.num_octave)
    ][::-1]
    picture, small = original, tf.image.resize(original, shapes[0])
    for shape in shapes:
        picture = tf.image.resize(picture, shape)
        for _ in range(parameters.iterations):
            with tf.GradientTape() as tape:
                tape.watch(picture)
                maps = extract((picture + 1) * 127.5)
                loss = sum(
                    w * tf.reduce_mean(m[:, 2:-2, 2:-2] ** 2)
                    for w, m in zip(parameters.layers.values(), maps, strict=True)
                )
            picture += parameters.step * tf.math.l2_normalize(tape.gradient(loss, picture))
        picture += tf.image.resize(original, shape) - tf.image.resize(small, shape)
        small = tf.image.resize(original, shape)
    return images.to_uint8((picture.numpy()[0] + 1) * 127.5)


def test_the_picture_is_the_book_s_within_rounding(image):
    # A short step: a long one amplifies the rounding of the two units in every step until single pixels part.
    gentle = PARAMETERS.model_copy(update={"step": 4.0})
    ours, theirs = (f(image, gentle).astype(int) for f in (dream, dream_on_unit_pixels))
    assert np.abs(ours - image).mean() > 0.5
    assert np.quantile(np.abs(ours - theirs), 0.999) <= 1


def test_octaves_grow_to_the_full_size_as_in_the_book():
    assert deepdream.octave_shapes(900, 600, 3, 1.4) == [(459, 306), (642, 428), (900, 600)]


def test_every_step_is_reported_and_the_loss_grows(image):
    records = []
    out = dream(image, PARAMETERS, records.append)
    assert [r.step for r in records] == [1, 2, 3, 4, 5, 6]
    assert [r.stage for r in records] == [0, 0, 0, 1, 1, 1]
    assert records[2].loss > records[0].loss
    assert out.shape == image.shape


def test_an_octave_ends_above_the_maximal_loss(image):
    records = []
    dream(image, PARAMETERS.model_copy(update={"max_loss": 1e-6}), records.append)
    assert [r.step for r in records] == [1, 4]


def test_previews_come_at_the_steps_asked_for(image):
    records = []
    dream(image, PARAMETERS.model_copy(update={"preview_every": 2}), records.append)
    assert [r.step for r in records if r.image is not None] == [2, 4, 6]


def test_cancelling_stops_within_one_step(image):
    steps = []

    def cancel_at_second(progress):
        steps.append(progress.step)
        if progress.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        dream(image, PARAMETERS, cancel_at_second)
    assert steps == [1, 2]


def test_the_same_request_gives_the_same_picture(image):
    np.testing.assert_array_equal(dream(image, PARAMETERS), dream(image, PARAMETERS))


def test_an_unknown_layer_is_answered_with_those_there_are(image):
    with pytest.raises(features.FeaturesError, match=r"'mixed99' is not in compact; accepted: .*block4_conv1"):
        dream(image, PARAMETERS.model_copy(update={"layers": {"mixed99": 1.0}}))


def test_an_unknown_extractor_is_answered_with_those_there_are(image):
    with pytest.raises(features.FeaturesError, match="'resnet' is unknown; accepted: vgg19, inception_v3, compact"):
        dream(image, PARAMETERS.model_copy(update={"features": "resnet"}))


def test_missing_weights_are_answered_with_how_to_get_them(image, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("REVERIE_WEIGHTS_DIR", raising=False)
    features._full_model.cache_clear()
    with pytest.raises(features.FeaturesError, match="run 'reverie weights inception_v3'"):
        dream(image, PARAMETERS.model_copy(update={"features": "inception_v3"}))


def test_an_image_too_small_for_its_octaves_is_refused(image):
    with pytest.raises(images.ImageError, match="smallest octave"):
        dream(image, PARAMETERS.model_copy(update={"num_octave": 5}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": float("nan")},
        {"step": -1},
        {"iterations": 0},
        {"octave_scale": 1},
        {"layers": {"a": float("inf")}},
        {"x": 1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeepDreamParameters(**wrong)


def test_layers_can_be_written_as_text():
    assert DeepDreamParameters(layers="mixed4=1, mixed5=1.5").layers == {"mixed4": 1.0, "mixed5": 1.5}
    with pytest.raises(ValueError, match="name=weight"):
        DeepDreamParameters(layers="mixed4")


def test_the_book_s_defaults_dream_through_inception_v3(data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    features._full_model.cache_clear()
    records = []
    photo = images.fit_within(images.read(data / "chicago.jpg"), 400)
    dream(photo, DeepDreamParameters(iterations=4), records.append)
    assert records[3].loss > 1.5 * records[0].loss
