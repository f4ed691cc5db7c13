"""A network that learns from many paintings, with a predictor of their styles."""

import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest

from imaging import images
from synthesis import features
from synthesis.style.balance import ContentBalance, kinship
from synthesis.style.learn import LearnParameters
from synthesis.style.loss import STYLE_LAYERS, StyleTargets
from synthesis.style.network import StyleNetworkConfig, build
from synthesis.style.predictor import restored
from tests.conftest import running_eagerly
from training.loop import Schedule, TrainingStopped
from training.photos import Photos
from training.runs import Run, RunError
from training.style import gallery
from training.style import train as style
from training.style.many import PainterBatches, PainterTraining, check, drafter, go_on_from, train, trained, trainer
from training.style.paintings import Paintings

TINY = StyleNetworkConfig(("dots", "lines"), width=12, blocks=1)
OTHERS = ("a", "b", "c")
CONFIG = PainterTraining(
    TINY, steps=3, size=32, style_size=48, features="compact", content_error=(0.5,), held_out=("c",)
)


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def photos(random_photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(random_photos.iterdir())[:4]:
        shutil.copy(path, folder)
    return Photos.of(folder)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("paintings"), np.random.default_rng(3)
    for name in (*TINY.styles, *OTHERS):
        (folder / f"{name}.png").write_bytes(images.encode(rng.integers(0, 256, (40, 48, 3), np.uint8)))
    return {name: folder / f"{name}.png" for name in (*TINY.styles, *OTHERS)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def initial(paths, photos, tmp_path_factory):
    """A finished run with the named styles."""
    keras.config.set_dtype_policy("float32")
    config = style.StyleTraining(TINY, steps=1, size=32, style_size=48, features="compact")
    named = {name: paths[name] for name in TINY.styles}
    with running_eagerly():
        return style.train(config, named, photos, tmp_path_factory.mktemp("runs") / "initial", Schedule(1))


def run_to(path, paths, photos, cache, initial, config=CONFIG):
    return train(config, paths, photos, path, Schedule(3, 2, 3, checkpoint_every=1), cache, initial)


@pytest.fixture(scope="module")
def unbroken(paths, photos, cache, initial, tmp_path_factory):
    """A finished run, not to be changed."""
    keras.config.set_dtype_policy("float32")
    with running_eagerly():
        return run_to(tmp_path_factory.mktemp("runs") / "unbroken", paths, photos, cache, initial)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    unbroken, paths, photos, cache, initial, tmp_path, monkeypatch
):
    original = PainterBatches.at

    def at(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patched, pytest.raises(TrainingStopped):
        patched.setattr(PainterBatches, "at", at)
        run_to(tmp_path / "run", paths, photos, cache, initial)
    resumed = run_to(tmp_path / "run", paths, photos, cache, initial)
    ours, theirs = (run.checkpoints.load() for run in (resumed, unbroken))
    assert ours[0] == theirs[0] == 3
    for our, their in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_array_equal(our, their)


def test_a_finished_run_is_a_style_run_with_a_predictor_and_says_how_good_drafts_are(unbroken):
    assert style.load(unbroken).config.styles == TINY.styles
    assert (unbroken.path / "predictor.npz").is_file()
    assert list(unbroken.samples.iterdir())
    assert np.isfinite(unbroken.result["draft_style_error_c"])
    assert PainterTraining.from_dict(unbroken.config) == CONFIG


def test_the_predictor_of_a_run_is_the_finished_one_or_its_last_checkpoint_s(unbroken, initial, paths, cache):
    network, predictor = drafter(unbroken)
    with np.load(unbroken.path / "predictor.npz") as data:
        finished = restored(data)
    painting = Paintings(dict(paths), 48, "compact", cache).statistics("c")
    np.testing.assert_array_equal(predictor(painting), finished(painting))
    for ours, theirs in zip(network.variables, style.load(unbroken).variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(RunError, match="no predictor"):
        drafter(initial)


def batches_of(config, paths, photos, cache):
    names = trained(config, paths)
    paintings = Paintings(dict(paths), config.style_size, config.features, cache)
    statistics = np.concatenate([paintings.statistics(name) for name in names])
    return PainterBatches(config, photos, paintings, names, statistics.std(0)), statistics


def test_what_is_held_out_is_never_trained_on_and_all_others_are(paths, photos, cache):
    batches, _ = batches_of(CONFIG, paths, photos, cache)
    seen = {batches.names[np.argmax(batches.at(step)["painting"])] for step in range(60)}
    assert seen == set(paths) - {"c"}


def test_a_named_style_s_step_leaves_the_predictor_and_a_predicted_one_s_the_rows(paths, photos, cache):
    batches, statistics = batches_of(replace(CONFIG, recolored_share=0.0), paths, photos, cache)
    model = trainer(build(TINY), statistics, batches.config)
    steps = [batches.at(step) for step in range(20)]
    own = next(step for step in steps if step["predicted"][0, 0] == 0)
    predicted = next(step for step in steps if step["predicted"][0, 0] == 1)
    assert own["style_weights"].sum() == 1 and predicted["style_weights"].sum() == 0
    np.testing.assert_array_equal(model.vectors(own), model.network.vectors(own["style_weights"]))
    np.testing.assert_array_equal(model.vectors(predicted), model.predictor(predicted["statistics"]))


def test_own_and_recolored_steps_come_as_often_as_asked(paths, photos, cache):
    asked = replace(CONFIG, own_share=0.5, batch_size=40)
    batches, _ = batches_of(asked, paths, photos, cache)
    assert 0.3 < 1 - batches.at(0)["predicted"].mean() < 0.7
    never = replace(CONFIG, own_share=0.0, batch_size=10)
    assert batches_of(never, paths, photos, cache)[0].at(0)["predicted"].all()


def test_targets_are_kept_on_disk_almost_as_exact_as_measured(paths, cache, monkeypatch):
    paintings = Paintings(dict(paths), 48, "compact", cache)
    kept = paintings.targets("a", order=1)
    picture = images.read(paths["a"])[..., (1, 2, 0)]
    exact = StyleTargets.of(features.load("compact", STYLE_LAYERS), [picture])
    for ours, theirs in zip(kept.grams, exact.grams, strict=True):
        assert ours.shape == theirs.shape
        assert np.square(ours - theirs).sum() < 1e-6 * np.square(theirs).sum()
    monkeypatch.setattr(StyleTargets, "of", None)
    np.testing.assert_array_equal(Paintings(dict(paths), 48, "compact", cache).targets("a", 1).grams[0], kept.grams[0])


def test_styles_lend_each_other_steps_of_their_weights_by_kinship():
    shares = kinship(np.array([[0.0, 0], [0, 0.01], [9, 9], [8, -9]]))
    np.testing.assert_allclose(np.diag(shares), 1.0)
    balance = ContentBalance((0.5,) * 4, 0.3, shares)
    balance.update(np.float32([1.0]), np.eye(4, dtype=np.float32)[[0]])
    moved = np.log(0.3) * -1 + np.asarray(balance.log_weights)
    assert moved[0] >= moved[1] > 2 * moved[2] > 0


def test_a_run_goes_on_from_another_of_its_kind(unbroken, paths, photos, cache):
    _, statistics = batches_of(CONFIG, paths, photos, cache)
    model = trainer(build(TINY), statistics, CONFIG)
    go_on_from(unbroken, model)
    values = unbroken.checkpoints.load()[1]
    for variable, value in zip(model.variables, values, strict=False):
        np.testing.assert_array_equal(variable, value)
    with pytest.raises(RunError, match="other paintings"):
        go_on_from(unbroken, trainer(build(TINY), statistics[:3], CONFIG))
    with pytest.raises(RunError, match="no weights yet"):
        go_on_from(Run(unbroken.path / "none"), model)


def test_a_painting_that_is_missing_or_asked_for_twice_is_refused(paths):
    with pytest.raises(RunError, match="no painting called z"):
        check(replace(CONFIG, held_out=("z",)), paths)
    with pytest.raises(RunError, match="cannot be held out"):
        check(replace(CONFIG, held_out=("dots",)), paths)
    with pytest.raises(ValueError, match="own_share"):
        replace(CONFIG, own_share=1.5)


@pytest.mark.usefixtures("eagerly")
def test_a_gallery_holds_the_rows_that_were_there_and_learned_styles_and_goes_on_where_it_stopped(
    unbroken, paths, photos, tmp_path, monkeypatch
):
    shown = [images.read(path) for path in photos.paths[:1]]
    few = LearnParameters(max_seconds=3600, max_steps=1, size=64, style_size=64, crops=1, features="compact")
    wanted = {name: paths[name] for name in ("lines", "a", "c")}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(gallery, "statistics_of", interrupted)
        gallery.hang(unbroken, wanted, shown, few, tmp_path / "run")
    kept = (tmp_path / "run" / "vectors" / "lines.npz").stat().st_mtime_ns
    hung = gallery.hang(unbroken, wanted, shown, few, tmp_path / "run")
    assert (tmp_path / "run" / "vectors" / "lines.npz").stat().st_mtime_ns == kept
    assert (hung.result["styles"], hung.result["learned"]) == (3, 2)
    ours, theirs = style.load(hung), style.load(unbroken)
    assert ours.config.styles == ("lines", "a", "c")
    photo = next(photos.one_crop_each(32))
    row, old = np.eye(3, dtype=np.float32)[[0]], np.eye(2, dtype=np.float32)[[1]]
    np.testing.assert_allclose(ours((photo, row)), theirs((photo, old)), atol=1e-3)
    with np.load(tmp_path / "run" / "vectors" / "a.npz") as data:
        np.testing.assert_array_equal(ours.vectors(np.eye(3, dtype=np.float32)[[1]])[0], data["vector"])


def interrupted(*_):
    raise KeyboardInterrupt
