import json

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from imaging import images
from training.style.evaluation import evaluate, perception, surface
from training.style.evaluation.classifier import Classifier, ClassifierError
from training.style.evaluation.evaluate import EvaluationError, Judges, Photograph, Restyler
from training.style.evaluation.faces import Box, FaceDetector, kept
from training.style.evaluation.perception import StyleStatistics, painting_statistics
from training.style.evaluation.surface import Window


def random_picture(height=96, width=112):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def gray(values):
    return np.repeat(np.asarray(values, np.float64)[..., None], 3, axis=2)


def lattice(side=96):
    y, x = np.indices((side, side))
    return 50 * np.cos(2 * np.pi * x / 16) * np.cos(2 * np.pi * y / 12)


def identity(photo):
    return photo


def invert(photo):
    return 255 - photo


# The surface.


@pytest.mark.parametrize(("value", "share"), [(0, 1.0), (255, 1.0), (1, 0.0), (254, 0.0)])
def test_values_at_the_ends_of_the_range_are_clipped(value, share):
    picture = np.full((8, 8, 3), value, np.uint8)
    assert surface.clipped(picture) == share
    picture[:4] = 128
    assert surface.clipped(picture) == share / 2


@pytest.mark.parametrize("border", range(4), ids=["top", "bottom", "left", "right"])
def test_a_band_that_is_painted_along_a_border_is_found_there(border):
    def paint(photo):
        picture = photo // 4 + 100
        side = [picture, picture[::-1], picture.swapaxes(0, 1), picture.swapaxes(0, 1)[::-1]][border]
        side[: surface.BORDER, :, 0] -= 40
        return picture

    photo = random_picture(200, 220)
    bands = surface.border_bands(paint, photo, paint(photo))
    assert bands[border] == pytest.approx([-40, 0, 0], abs=0.5)
    assert np.delete(bands, border, axis=0) == pytest.approx(np.zeros((3, 3)), abs=3)


def test_what_the_photograph_has_along_its_borders_is_no_band():
    photo = random_picture(200, 220)
    photo[-20:] //= 8
    for paint in (identity, invert):
        assert not surface.border_bands(paint, photo, paint(photo)).any()


def test_a_painting_that_moves_with_the_photograph_does_not_change():
    assert surface.shift_over_gradient(identity, random_picture()) == 0
    assert surface.shift_over_gradient(invert, random_picture()) == 0


def test_a_painting_that_stays_where_it_was_changes_by_its_own_gradient():
    canvas = ndimage.gaussian_filter(random_picture(), (2, 2, 0))
    stays = lambda photo: canvas[: photo.shape[0], : photo.shape[1]]  # noqa: E731
    assert surface.shift_over_gradient(stays, random_picture()) == pytest.approx(1)


def test_a_painting_that_is_made_anew_changes_more_than_that():
    rng = np.random.default_rng(1)

    def anew(photo):
        return ndimage.gaussian_filter(rng.integers(0, 256, photo.shape, np.uint8), (2, 2, 0))

    assert surface.shift_over_gradient(anew, random_picture()) > 1.5


def test_a_fading_sky_is_the_plain_part_of_a_photograph():
    photo = random_picture(240, 320)
    sky = np.linspace(60, 200, 140)[:, None, None] + np.array([0, 10, 40])
    photo[20:160, 150:300] = sky.astype(np.uint8)
    window = surface.plain_window(photo)
    assert 20 <= window.top <= 160 - window.side
    assert 150 <= window.left <= 300 - window.side


@pytest.mark.parametrize("shape", [(240, 320), (40, 40), (96, 300)])
def test_a_photograph_may_have_no_plain_part(shape):
    assert surface.plain_window(random_picture(*shape)) is None


def test_a_lattice_repeats_in_gray_and_in_colors_of_equal_gray():
    assert surface.repetition(128 + gray(lattice())) == pytest.approx(1, abs=0.02)
    colors = np.stack([128 + lattice(), 128 - lattice(), np.full((96, 96), 128)], axis=2)
    assert surface.repetition(colors) == pytest.approx(1, abs=0.02)


def test_a_lattice_under_large_strokes_repeats_all_the_same():
    strokes = 60 * np.cos(2 * np.pi * np.add.outer(np.arange(96), np.arange(96)) / 150)
    assert surface.repetition(128 + gray(lattice() / 3 + strokes)) > 0.9


def test_a_lattice_in_noise_repeats_less():
    noisy = 128 + gray(lattice() + np.random.default_rng(0).normal(0, 25, (96, 96)))
    assert surface.repetition(noisy) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("blur", [0, 1, 2, 3])
def test_a_chance_texture_hardly_repeats(blur):
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(0, 300, (96, 96)), blur)
    assert surface.repetition(128 + gray(texture)) < 0.4


def test_nothing_repeats_where_nothing_is_to_be_seen():
    assert surface.repetition(np.full((96, 96, 3), 7, np.uint8)) == 0
    assert surface.repetition(128 + gray(lattice() / 100)) == 0
    assert surface.repetition(gray(np.add.outer(np.arange(96), np.arange(96)))) == 0


def test_noise_is_the_grain_s_deviation_and_slopes_are_none():
    slope = np.add.outer(np.arange(96), 2 * np.arange(96))
    assert surface.noise(gray(slope)) == pytest.approx(0, abs=1e-9)
    grain = np.random.default_rng(0).normal(0, 10, (96, 96, 3))
    assert surface.noise(gray(slope) + grain) == pytest.approx(10, rel=0.05)


# The photograph and the painting.


def activations(scale=1.0, height=12, seed=0):
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(1, 1, (1, height, 10, c))).astype(np.float32) for c in (4, 8, 8, 16, 16)]


def test_style_errors_are_relative_and_do_not_see_where_things_are():
    wanted = StyleStatistics.of(activations())
    again = StyleStatistics.of([a[:, ::-1] for a in activations()])
    assert again.gram_error(wanted) == pytest.approx(0, abs=1e-9)
    assert again.sliced_wasserstein(wanted) == pytest.approx(0, abs=1e-9)
    doubled = StyleStatistics.of(activations(2.0))  # Gram matrices four times as large, quantiles twice.
    assert doubled.gram_error(wanted) == pytest.approx(9, rel=1e-4)
    assert doubled.sliced_wasserstein(wanted) == pytest.approx(1, rel=1e-4)


def test_pictures_of_different_sizes_have_the_same_style():
    wanted = StyleStatistics.of(activations())
    twice = StyleStatistics.of([np.concatenate([a, a], axis=1) for a in activations()])
    assert twice.gram_error(wanted) == pytest.approx(0, abs=1e-9)
    assert twice.sliced_wasserstein(wanted) == pytest.approx(0, abs=1e-3)


def test_the_sliced_wasserstein_distance_sees_what_gram_matrices_do_not():
    """Two values as often, or a bell curve: the same second moments."""
    rng = np.random.default_rng(0)
    bell = [rng.normal(0, 1, (1, 64, 64, 4)).astype(np.float32)] * 5
    coins = [rng.choice([-1, 1], (1, 64, 64, 4)).astype(np.float32)] * 5
    one, other = StyleStatistics.of(bell), StyleStatistics.of(coins)
    assert one.gram_error(other) < 0.005
    assert one.sliced_wasserstein(other) > 0.005


@pytest.fixture
def vgg19(data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))


def test_the_photograph_has_no_content_error_and_the_painting_no_style_error(vgg19, tmp_path):
    painting, photo = random_picture(80, 96), ndimage.gaussian_filter(random_picture(80, 96)[::-1], (4, 4, 0))
    statistics = painting_statistics(painting, tmp_path)
    assert list(statistics) == ["384", "512", "own"]
    content = perception.content_of(photo)
    untouched = perception.perceive(content, photo, statistics)
    assert set(untouched.content_error) == {"block3_conv3", "block4_conv2"}
    assert list(untouched.content_error.values()) == pytest.approx([0, 0], abs=1e-6)
    assert untouched.style_error["own"] > 0.3
    copied = perception.perceive(content, painting, statistics)
    assert list(copied.style_error.values()) == pytest.approx([0, 0, 0], abs=1e-4)
    assert list(copied.sliced_wasserstein.values()) == pytest.approx([0, 0, 0], abs=1e-4)
    assert min(copied.content_error.values()) > 0.3


def test_a_painting_is_looked_at_in_each_size_once(vgg19, tmp_path, monkeypatch):
    painting = random_picture(30, 600)
    first = painting_statistics(painting, tmp_path)
    assert first["384"].gram_error(first["512"]) > 0.001 < first["512"].gram_error(first["own"])
    monkeypatch.setattr(perception, "_activations", lambda image: pytest.fail("its statistics were known"))
    again = painting_statistics(painting, tmp_path)
    assert again["own"].gram_error(first["own"]) == 0


# Judges.


def test_faces_overlap_by_intersection_over_union():
    box = Box(0, 0, 10, 10)
    assert box.overlap(box) == 1
    assert box.overlap(Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box.overlap(Box(10, 0, 20, 10)) == box.overlap(Box(30, 30, 40, 40)) == 0


def test_a_face_is_kept_where_it_was_and_a_new_one_counts_for_nothing():
    here, there = Box(0, 0, 10, 10), Box(50, 50, 60, 60)
    assert kept([here, there], [Box(1, 0, 11, 10), Box(100, 0, 110, 10)]) == 1
    assert kept([here], []) == kept([], [here]) == 0


@pytest.fixture(scope="session")
def judge(data):
    """The folder of judges and of photographs that nobody trains on."""
    folder = data / "judge"
    if not folder.is_dir():
        pytest.skip(f"REVERIE_TEST_DATA has no folder {folder.name}/ with a classifier and photographs of faces")
    return folder


@pytest.fixture(scope="session")
def classifier(judge):
    return Classifier(next(judge.glob("*.tflite")))


@pytest.mark.parametrize("content", [None, b"no classifier"])
def test_a_file_that_is_no_classifier_is_refused(content, tmp_path):
    file = tmp_path / "file.tflite"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClassifierError, match=r"file\.tflite cannot be used .* accepted: a TensorFlow Lite"):
        Classifier(file)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_guesses_are_the_best_five_that_have_a_score(kind, tmp_path):
    """A classifier of seven classes: the amounts of red, green and blue, and four that never score."""

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
    def classify(pixels):
        scaled = pixels if kind == "float32" else pixels / 127.5 - 1
        return tf.pad(tf.nn.relu(tf.reduce_mean(scaled, axis=(1, 2))), [[0, 0], [0, 4]])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([classify.get_concrete_function()])
    if kind == "uint8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([np.full((1, 8, 8, 3), v, np.float32)] for v in (0, 255))
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    (tmp_path / "colors.tflite").write_bytes(converter.convert())
    colors = Classifier(tmp_path / "colors.tflite")
    picture = lambda *rgb: np.full((20, 30, 3), rgb, np.uint8)  # noqa: E731
    assert colors.guesses(picture(255, 0, 0)) == [0]
    assert colors.guesses(picture(180, 20, 250)) == [2, 0]
    assert colors.guesses(picture(0, 0, 0)) == []


def test_a_tiger_is_guessed_and_noise_is_not_taken_for_one(classifier, judge):
    labels = (judge / "imagenet_labels.txt").read_text().splitlines()
    guesses = classifier.guesses(images.read(judge / "photos" / "108073.jpg"))
    assert "tiger" in labels[guesses[0]]
    assert len(guesses) <= 5
    assert guesses[0] not in classifier.guesses(random_picture())


def test_two_faces_are_found_and_none_without_them(judge):
    detector = FaceDetector()
    photo = images.read(judge / "photos" / "189003.jpg")
    left, right = sorted(detector.faces(photo), key=lambda box: box.left)
    assert 40 < (left.left + left.right) / 2 < 160 < (right.left + right.right) / 2 < 440
    assert detector.faces(ndimage.gaussian_filter(photo, (40, 40, 0))) == []


# All together.


def restyler(paint, styles=("a", "b")):
    return Restyler("test", styles, lambda photo, style, strength: paint(photo), paint)


@pytest.mark.slow
def test_the_untouched_photograph_keeps_everything_and_noise_nothing(vgg19, classifier, judge, tmp_path):
    judges = Judges(classifier, FaceDetector())
    photos = evaluate.look_at([judge / "photos" / "189003.jpg", judge / "photos" / "108073.jpg"], 320, 1, judges)
    targets = {"a": painting_statistics(random_picture(), tmp_path)}
    untouched = evaluate.evaluate(restyler(identity), photos, targets, 1.0, judges)
    assert untouched["recognised"] == {"mean": 1, "worst": 1, "by_style": {"a": 1}}
    assert (untouched["faces_kept"], untouched["ssim"]) == (1, pytest.approx(1))
    assert untouched["content_error"]["block4_conv2"] == pytest.approx(0, abs=1e-6)
    assert untouched["shift_over_gradient"] == untouched["border_band"] == 0
    noisy = evaluate.evaluate(restyler(lambda photo: random_picture(*photo.shape[:2])), photos, targets, 1.0, judges)
    assert noisy["recognised"]["mean"] == noisy["faces_kept"] == 0
    assert noisy["content_error"]["block4_conv2"] > 0.5
    assert noisy["style_error"]["own"] < 0.1 * untouched["style_error"]["own"]
    json.dumps(noisy)


def test_without_judges_plain_skies_and_faces_figures_are_null(random_photos):
    photos = evaluate.look_at(sorted(random_photos.iterdir())[:2], 512, 0, Judges())
    found = evaluate.figures([evaluate.Painted.of(identity, photo, {}, Judges()) for photo in photos])
    missing = ("recognised", "faces_kept", "repetition", "noise", "shift_over_gradient", "border_band")
    assert {name: found[name] for name in missing} == dict.fromkeys(missing)
    assert found["ssim"] == pytest.approx(1)
    assert evaluate.summary({"a": found})["recognised"] == {"mean": None, "worst": None, "by_style": {"a": None}}


def test_a_network_is_judged_by_its_mean_and_by_its_worst_style():
    styles = {
        "a": {"recognised": 0.9, "content_error": {"deep": 0.2}, "border_band": 3.0, "clipped": None},
        "b": {"recognised": 0.3, "content_error": {"deep": 0.6}, "border_band": 9.0, "clipped": 0.5},
    }
    found = evaluate.summary(styles)
    assert found["recognised"] == {"mean": pytest.approx(0.6), "worst": 0.3, "by_style": {"a": 0.9, "b": 0.3}}
    assert found["content_error"] == {"deep": pytest.approx(0.4)}
    assert (found["border_band"], found["clipped"]) == (9.0, 0.5)


def test_bands_that_single_photographs_have_average_out():
    def painted(band):
        closely = evaluate.Closely(evaluate.Perceived({}, {}, {}), np.full((4, 3), band), 0.0)
        photo = Photograph(random_picture(), None, (), None, None)
        return evaluate.Painted(photo, None, 0, 1.0, 0.0, None, None, closely)

    assert evaluate.figures([painted(8.0), painted(-8.0)])["border_band"] == 0
    assert evaluate.figures([painted(-8.0), painted(-8.0)])["border_band"] == 8


def test_a_flat_area_is_measured_where_the_photograph_has_it():
    photo = Photograph(random_picture(200, 200), None, (), Window(50, 60), None)

    def paint(pixels):
        picture = random_picture(200, 200)
        picture[50:146, 60:156] = images.to_uint8(128 + gray(lattice()))
        return picture

    measured = evaluate.Painted.of(paint, photo, {}, Judges())
    assert measured.repetition == pytest.approx(1, abs=0.02)


def test_a_photograph_that_is_too_small_is_refused(tmp_path):
    (tmp_path / "small.png").write_bytes(images.encode(random_picture(40, 200)))
    with pytest.raises(EvaluationError, match=r"small.png has 128x26 pixels at size 128; accepted: sides from 64"):
        evaluate.look_at([tmp_path / "small.png"], 128, 1, Judges())


def test_chosen_photographs_are_evenly_spaced():
    assert evaluate.evenly(47, 3) == [0, 23, 46]
    assert evaluate.evenly(3, 12) == [0, 1, 2]


def test_the_curve_goes_from_the_photograph_to_the_whole_style(vgg19, tmp_path):
    def paint(photo, style, strength):
        return images.to_uint8(photo + strength * (random_picture(*photo.shape[:2]) - photo.astype(np.float64)))

    photo = ndimage.gaussian_filter(random_picture(64, 64), (3, 3, 0))
    photos = [Photograph.of(photo, Judges(), closely=True), Photograph.of(photo, Judges(), closely=False)]
    targets = {"a": painting_statistics(random_picture(64, 64), tmp_path)}
    points = evaluate.curve(Restyler("test", ("a",), paint, identity), photos, targets)["a"]
    assert [point["strength"] for point in points] == list(evaluate.CURVE_STRENGTHS)
    content, style = ([point[name] for point in points] for name in ("content_error", "style_error"))
    assert content == sorted(content)
    assert style[0] > 0.3 > 1e-3 > style[-1]


def test_networks_are_timed_each_for_itself():
    slow = restyler(lambda photo: [np.linalg.svd(photo[..., 0].astype(float)), photo][1])
    quick, costly = evaluate.milliseconds([restyler(identity), slow])
    assert quick < 1 < costly


def test_a_painting_that_is_no_style_of_the_network_is_refused():
    with pytest.raises(EvaluationError, match=r"\['c'\] are no styles of test; accepted: a, b"):
        evaluate.evaluate(restyler(identity), [], {"c": {}}, 1.0, Judges())
