from dataclasses import astuple

import keras
import numpy as np
import pytest

from synthesis import compact
from synthesis.losses import total_variation
from training.features.paintings import InitialImage, OptimizationPool
from training.features.train import FeaturesTraining, augmented, initial_images, train
from training.loop import Schedule
from training.photos import Photos


def test_augmented_crops_stay_pixels():
    crops = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    out = augmented(crops, np.random.default_rng(1))
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 255


def test_the_student_has_the_teacher_s_layers_and_channels(data):
    vgg = keras.applications.VGG19(weights=None, include_top=False)
    for name, output in zip(compact.LAYERS, compact.build_untrained().outputs, strict=True):
        assert output.shape[-1] == vgg.get_layer(name).output.shape[-1]


@pytest.mark.slow
def test_a_run_brings_the_student_closer_to_vgg19(data, tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    keras.config.set_dtype_policy("float32")
    split = Photos.split
    monkeypatch.setattr(Photos, "split", lambda photos, held_out: split(photos, 2))  # VGG19 looks at each.
    config = FeaturesTraining(steps=12, batch_size=2, size=48)
    photos, paintings = Photos(Photos.of(data / "photos").paths[:20]), Photos.of(data / "styles")
    run = train(config, photos, paintings, tmp_path / "run", Schedule(12))
    assert run.result["relative_error"]["block2_conv1"] < 0.97
    assert (run.path / "compact.npz").stat().st_size < 6e6


@pytest.mark.slow
def test_optimizations_lower_the_student_s_objective_and_make_room_for_new_ones():
    keras.config.set_dtype_policy("float32")
    student = compact.build()
    rng = np.random.default_rng(0)
    begun = []

    def begin(number):
        begun.append(number)
        content, style = rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
        return InitialImage(content, style, content)

    pool = OptimizationPool(student, begin, count=2, steps=6, stride=2)
    first, _, last = (pool.advance(2) for _ in range(3))
    assert begun == [0, 1, 2, 3]  # After six steps each, the first two made room.
    assert first.shape == (2, 32, 32, 3)
    assert total_variation(last[:1])[0] < total_variation(first[:1])[0]  # The book's objective asks for smoothness too.


def test_an_optimization_starts_from_a_photograph_or_noise_with_a_style_of_either_kind(random_photos):
    config = FeaturesTraining(size=24)
    photos = Photos.of(random_photos)
    begin = initial_images(photos, Photos(photos.paths[:1]), config)
    photograph, noise = begin(2), begin(3)
    assert photograph.content.shape == photograph.style.shape == (24, 24, 3)
    assert (photograph.picture == photograph.content).all()
    assert not (noise.picture == noise.content).all()
    for again, before in zip(astuple(begin(2)), astuple(photograph), strict=True):
        np.testing.assert_array_equal(again, before)
