import json

import numpy as np
import pytest

from synthesis import gatys, images
from synthesis.optimisers import OPTIMISERS
from training.style import evaluate
from training.style.evaluate import Evaluation, passes_equal


def test_an_objective_between_two_passes_is_between_them_along_the_logarithm():
    curve = [1000.0, 100.0, 10.0, 10.0, 1.0]
    assert passes_equal(1000.0, curve) == 0
    assert passes_equal(5000.0, curve) == 0
    assert passes_equal(10**1.5, curve) == pytest.approx(1.5)
    assert passes_equal(0.5, curve) == 4


def test_a_picture_that_moves_with_the_photograph_has_no_one_pixel_response():
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    assert evaluate.one_pixel_shift(lambda image: 255 - image, photo) == 0
    stripes = (np.arange(79) % 2 * 10).astype(np.uint8)[None, :, None]
    assert evaluate.one_pixel_shift(lambda image: image // 2 + stripes, photo) == pytest.approx(10)


def test_the_untouched_photograph_is_no_pass_and_l_bfgs_as_many_as_it_took(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    photos = sorted((data / "photos").iterdir())[:1]
    paintings = {"wave": data / "styles" / "wave.jpg"}
    evaluation = Evaluation(size=64, passes=20, cache=tmp_path)
    untouched = evaluate.evaluate(lambda image, _: image, ["wave"], paintings, photos, evaluation)
    assert (untouched["photos"], untouched["lbfgs_passes_equal"], untouched["ssim"]) == (1, 0, 1)
    assert untouched["content_loss"] == untouched["feature_distance"] == 0
    (start,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    assert [untouched["objective"]] == [untouched["objective_photo"]] == pytest.approx(start, rel=1e-3)

    def lbfgs(image, _):
        goal, photo = gatys.objective("vgg19"), image[0]
        targets = evaluation.targets(photo, images.read(paintings["wave"]))
        start = photo.astype(np.float64)
        painted = OPTIMISERS["lbfgs"](lambda pixels: goal.measure(pixels, targets), start, 3, 0.0, lambda *_: None)
        return images.to_uint8(painted)[None]

    monkeypatch.setattr(evaluate, "one_pixel_shift", lambda *_: 0.0)
    painted = evaluate.evaluate(lbfgs, ["wave"], paintings, photos, evaluation)
    assert painted["lbfgs_passes_equal"] == pytest.approx(3, abs=0.3)
    assert painted["content_loss"] > 0


def test_a_curve_goes_as_far_as_it_is_needed_and_is_kept(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    files = min((data / "photos").iterdir()), data / "styles" / "wave.jpg"
    photo, painting = (images.fit_within(images.read(file), 64) for file in files)
    start, evaluation = photo.astype(np.float64), Evaluation(cache=tmp_path)

    def curve(objective, passes):
        return evaluate.lbfgs_curve(photo, painting, start, objective, passes, evaluation)

    whole = curve(0.0, 4)
    assert len(whole) == 5
    monkeypatch.setattr(evaluate, "_descend", lambda *_: pytest.fail("this curve was known"))
    assert curve(whole[2], 9) == curve(0.0, 4) == whole
    assert curve(0.0, 1) == whole[:2]
    monkeypatch.undo()
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    assert len(curve(whole[-1] * 0.999, 50)) == 6
    assert curve(0.0, 4) == pytest.approx(whole, rel=1e-3)


def test_passes_from_noise_are_counted_along_a_curve_that_starts_there(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    photos, paintings = sorted((data / "photos").iterdir())[:1], {"wave": data / "styles" / "wave.jpg"}
    evaluation = Evaluation(size=64, passes=1, noise_passes=2, cache=tmp_path)

    def paint_noise(image, _):
        return images.to_uint8(evaluate.noise(*image.shape[1:]))[None]

    noisy = evaluate.evaluate(paint_noise, ["wave"], paintings, photos, evaluation)
    assert noisy["lbfgs_passes_equal_from_noise"] == pytest.approx(0, abs=0.01)
    assert len(list(tmp_path.iterdir())) == 2
    untouched = evaluate.evaluate(lambda image, _: image, ["wave"], paintings, photos, evaluation)
    assert 0 < untouched["lbfgs_passes_equal_from_noise"] <= 2
    without = evaluate.evaluate(lambda image, _: image, ["wave"], paintings, photos, Evaluation(64, 1, tmp_path))
    assert without["lbfgs_passes_equal_from_noise"] is None


def test_a_painting_that_is_no_style_of_the_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['b'\] are no styles of the network; accepted: a"):
        evaluate.evaluate(lambda image, _: image, ["a"], {"b": tmp_path}, [], Evaluation())


def test_the_contact_sheet_has_a_column_for_the_photograph_and_every_style(tmp_path, random_photos):
    photos = sorted(random_photos.iterdir())[:3]
    networks = [(lambda image, _: image, 2), (lambda image, _: 255 - image, 1)]
    evaluate.contact_sheet(networks, photos, tmp_path / "sheet.jpg")
    assert images.read(tmp_path / "sheet.jpg").shape == (3 * 256, 4 * 256, 3)
