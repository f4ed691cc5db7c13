import json

import numpy as np
import pytest

from imaging import images
from synthesis import gatys
from synthesis.optimizers import OPTIMIZERS
from training.style.evaluation import passes
from training.style.evaluation.evaluate import EvaluationError, Restyler
from training.style.evaluation.passes import PassesSettings, count_passes, passes_equal

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def vgg19(data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))


@pytest.fixture
def photos(data):
    return sorted((data / "photos").iterdir())[:1]


@pytest.fixture
def paintings(data):
    return {"wave": data / "styles" / "wave.jpg"}


def restyler(paint):
    return Restyler("test", ("wave",), lambda photo, style, strength: paint(photo), paint)


UNTOUCHED = restyler(lambda photo: photo)


def test_an_objective_between_two_passes_is_between_them_along_the_logarithm():
    curve = [1000.0, 100.0, 10.0, 10.0, 1.0]
    assert passes_equal(1000.0, curve) == 0
    assert passes_equal(5000.0, curve) == 0
    assert passes_equal(10**1.5, curve) == pytest.approx(1.5)
    assert passes_equal(0.5, curve) == 4


def test_the_untouched_photograph_is_no_pass_and_l_bfgs_as_many_as_it_took(vgg19, photos, paintings, tmp_path):
    settings = PassesSettings(passes=20, size=64, cache=tmp_path)
    untouched = count_passes(UNTOUCHED, paintings, photos, 1.0, settings)
    assert (untouched["photos"], untouched["lbfgs_passes_equal"], untouched["content_loss"]) == (1, 0, 0)
    (start,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    assert [untouched["objective"]] == [untouched["objective_photo"]] == pytest.approx(start, rel=1e-3)

    def lbfgs(photo):
        goal = gatys.objective("vgg19")
        targets = settings.targets(photo, images.read(paintings["wave"]))
        start = photo.astype(np.float64)
        painted = OPTIMIZERS["lbfgs"](lambda pixels: goal.measure(pixels, targets), start, 3, 0.0, lambda *_: None)
        return images.to_uint8(painted)

    painted = count_passes(restyler(lbfgs), paintings, photos, 1.0, settings)
    assert painted["lbfgs_passes_equal"] == pytest.approx(3, abs=0.3)
    assert painted["content_loss"] > 0


def test_a_curve_goes_as_far_as_it_is_needed_and_is_kept(data, monkeypatch, tmp_path):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    files = min((data / "photos").iterdir()), data / "styles" / "wave.jpg"
    photo, painting = (images.fit_within(images.read(file), 64) for file in files)
    start, settings = photo.astype(np.float64), PassesSettings(cache=tmp_path)

    def curve(objective, count):
        return passes.lbfgs_curve(photo, painting, start, objective, count, settings)

    whole = curve(0.0, 4)
    assert len(whole) == 5
    monkeypatch.setattr(passes, "_descend", lambda *_: pytest.fail("this curve was known"))
    assert curve(whole[2], 9) == curve(0.0, 4) == whole
    assert curve(0.0, 1) == whole[:2]
    monkeypatch.undo()
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    assert len(curve(whole[-1] * 0.999, 50)) == 6
    assert curve(0.0, 4) == pytest.approx(whole, rel=1e-3)


def test_passes_from_noise_are_counted_along_a_curve_that_starts_there(vgg19, photos, paintings, tmp_path):
    settings = PassesSettings(passes=1, noise_passes=2, size=64, cache=tmp_path)
    paint_noise = restyler(lambda photo: images.to_uint8(passes.noise(*photo.shape)))
    noisy = count_passes(paint_noise, paintings, photos, 1.0, settings)
    assert noisy["lbfgs_passes_equal_from_noise"] == pytest.approx(0, abs=0.01)
    assert len(list(tmp_path.iterdir())) == 2
    untouched = count_passes(UNTOUCHED, paintings, photos, 1.0, settings)
    assert 0 < untouched["lbfgs_passes_equal_from_noise"] <= 2
    without = count_passes(UNTOUCHED, paintings, photos, 1.0, PassesSettings(passes=1, size=64, cache=tmp_path))
    assert without["lbfgs_passes_equal_from_noise"] is None


def test_a_painting_that_is_no_style_of_the_network_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"\['b'\] are no styles of test; accepted: wave"):
        count_passes(UNTOUCHED, {"b": tmp_path}, [], 1.0, PassesSettings())
