import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from typer.testing import CliRunner

from imaging import images
from reverie.cli import cli
from synthesis import features
from synthesis.gatys import GatysParameters
from synthesis.loss_terms import Measured
from synthesis.style.balance import ContentBalance
from synthesis.style.loss import STYLE_LAYERS, PerceptualLoss, Weights
from synthesis.style.network import PRESETS, StyleNetworkConfig, build, grow
from tests.conftest import running_eagerly
from training.loop import Schedule, TrainingStopped
from training.photos import Photos, PhotosError
from training.runs import Run, RunError
from training.style.add import add, extended
from training.style.teachers import NetworkTeacher, Pairs
from training.style.train import (
    StyleTrainer,
    StyleTraining,
    batch_of,
    instability,
    load,
    named_paintings,
    train,
    trainer,
    warm_start,
)

TERMS = ("style", "content", "roughness", "overshoot")
TINY = StyleNetworkConfig(("dots", "lines"), width=12, blocks=1)


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def random_photos(random_photos, tmp_path_factory):
    """Three of them, of which a run trains on two, and at its end looks at the third in every style."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(random_photos.iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paintings")
    rng = np.random.default_rng(1)
    for name in TINY.styles:
        (folder / f"{name}.png").write_bytes(images.encode(rng.integers(0, 256, (64, 80, 3), np.uint8)))
    return {name: folder / f"{name}.png" for name in TINY.styles}


def one_hot(index):
    return np.eye(2, dtype=np.float32)[[index]]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_network_keeps_the_picture_s_size(preset):
    network = build(replace(TINY, preset=preset))
    for height, width in ((16, 16), (24, 40), (64, 48)):
        out = network((np.zeros((1, height, width, 3), np.float32), one_hot(0)))
        assert out.shape == (1, height, width, 3)


@pytest.mark.parametrize("change", [{"preset": "slow"}, {"width": 5}, {"blocks": -1}, {"styles": ("a", "a")}])
def test_a_shape_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="accepted"):
        replace(TINY, **change)


@pytest.mark.slow
def test_a_large_preset_has_johnson_s_1_68_million_parameters():
    network = build(StyleNetworkConfig(("one",), "johnson"))
    convolutions = sum(layer.kernel.shape.num_elements() for layer in network.convolutions())
    assert convolutions == 1_674_432


@pytest.mark.slow
def test_styles_differ_only_through_their_normalization_and_blend_linearly_in_its_parameters():
    network = build(TINY)
    photo = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    same = [np.asarray(network((photo, one_hot(i)))) for i in (0, 1)]
    np.testing.assert_allclose(same[0], same[1], atol=1e-3)
    network.to_rgb.conv.kernel.assign(np.full((3, 3, 2, 3), 0.1))
    network.up[-1].norm.beta.assign(np.array([[0.0] * 2, [1.0] * 2]))
    assert np.abs(np.asarray(network((photo, one_hot(1)))) - same[0]).max() > 0.1


@pytest.mark.slow
def test_one_picture_of_a_batch_does_not_move_another():
    network = build(TINY)
    photos = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    together = np.asarray(network((photos, np.eye(2, dtype=np.float32))))
    alone = np.asarray(network((photos[:1], one_hot(0))))
    np.testing.assert_allclose(together[:1], alone, atol=1e-2)


def configuration(**changes):
    defaults = {"steps": 4, "batch_size": 2, "size": 32, "style_size": 48, "features": "compact"}
    return StyleTraining(TINY, **defaults | changes)


def run_to(paintings, photos, path):
    return train(configuration(), paintings, photos, path, Schedule(4, 2, 4, checkpoint_every=2))


@pytest.fixture(scope="module")
def unbroken(paintings, random_photos, tmp_path_factory):
    """A finished run, not to be changed."""
    keras.config.set_dtype_policy("float32")
    with running_eagerly():
        return run_to(paintings, Photos.of(random_photos), tmp_path_factory.mktemp("runs") / "unbroken")


def test_all_styles_come_equally_often(random_photos):
    config, photos = configuration(batch_size=3), Photos.of(random_photos)
    batches = [batch_of(photos, config, step) for step in range(8)]
    assert {b.photos.shape[:2] for b in batches} == {(3, 72)}
    assert np.concatenate([b.style_weights for b in batches]).sum(axis=0).tolist() == [12, 12]


@pytest.fixture(scope="module")
def loss(paintings):
    """Of the two paintings, through the compact extractor."""
    return PerceptualLoss([images.read(path) for path in paintings.values()], "compact")


def picture(path):
    return images.read(path)[None].astype(np.float32)


@pytest.mark.slow
def test_a_painting_has_no_style_error_in_its_own_style_and_a_photograph_no_content_error(loss, paintings):
    dots, lines = (picture(path) for path in paintings.values())
    own, other = loss(dots, dots, one_hot(0)), loss(dots, lines, one_hot(1))
    for name in TERMS:
        assert float(own[name][0]) == pytest.approx(0, abs=1e-5)
    assert float(other["style"][0]) > 1e-3
    assert float(other["content"][0]) > 0.01


@pytest.mark.slow
def test_the_style_error_is_the_mean_over_layers_of_the_relative_error_of_gram_matrices(loss, paintings):
    dots, lines = (picture(path) for path in paintings.values())
    extract = features.load("compact", STYLE_LAYERS)
    errors = []
    for a, b in zip(extract(dots), extract(lines), strict=True):
        (x, y) = (np.asarray(v, np.float64).reshape(-1, v.shape[-1]) for v in (a, b))
        gram, target = x.T @ x / len(x), y.T @ y / len(y)
        errors.append(((gram - target) ** 2).sum() / (target**2).sum())
    assert float(loss(dots, dots, one_hot(1))["style"][0]) == pytest.approx(np.mean(errors), rel=1e-3)


@pytest.mark.slow
def test_one_picture_s_errors_do_not_move_another_s(loss, paintings):
    dots, lines = (picture(path) for path in paintings.values())
    both = loss(np.concatenate([dots, lines]), np.concatenate([lines, dots]), np.eye(2, dtype=np.float32)[::-1])
    alone = loss(dots, lines, one_hot(1))
    for name in TERMS:
        assert float(both[name][0]) == pytest.approx(float(alone[name][0]), rel=1e-3, abs=1e-6)


def test_values_outside_the_range_and_grain_beyond_the_painting_s_are_errors(loss):
    flat = np.full((1, 64, 80, 3), 128, np.float32)
    checkers = 255 * (np.indices((64, 80)).sum(axis=0) % 2)[None, ..., None] * np.ones(3, np.float32)
    assert float(loss(flat, flat, one_hot(0))["roughness"][0]) == 0
    assert float(loss(checkers.astype(np.float32), flat, one_hot(0))["roughness"][0]) > 0.1
    assert float(loss(flat + 255, flat, one_hot(0))["overshoot"][0]) == pytest.approx(128 / 127.5, rel=1e-3)


@pytest.mark.slow
def test_the_content_weight_of_a_style_moves_until_its_error_is_there():
    """A picture that gives up 1 / weight of the photograph: each style's weight has to become 1 / target."""
    balance = ContentBalance((0.5, 0.8), initial=0.3)
    for step in range(600):
        style = one_hot(step % 2)
        weight = balance(style)
        balance.update(1 / weight, style)
    np.testing.assert_allclose(np.exp(balance.log_weights), [2.0, 1.25], rtol=0.05)


@pytest.mark.slow
def test_what_cannot_be_had_does_not_push_its_weight_without_end():
    balance = ContentBalance((0.1, 0.1), initial=0.3)
    for _ in range(300):
        balance.update(np.float32([5.0]), one_hot(0))
    np.testing.assert_allclose(np.exp(balance.log_weights), [20.0, 0.3], rtol=1e-3)


@pytest.mark.usefixtures("eagerly")
def test_both_views_of_a_crop_show_the_loss_one_scene(random_photos):
    """A network that changes nothing paints both alike, wherever they are; one that is fixed to its grid does not."""
    config, photos, differences = configuration(), Photos.of(random_photos), []

    class Unchanged(keras.Model):
        def __init__(self, config):
            super().__init__()

        def vectors(self, style_weights):
            return style_weights

        def paint(self, image, vectors):
            return image

    def measure(painted, photo, style_weights, content_weight):
        differences.append(np.abs(painted - photo).max())
        return Measured(((1.0, "content", ops.zeros(2)),))

    model = StyleTrainer(Unchanged(TINY), measure, ContentBalance((0.5, 0.5), 0.3), 32, Weights(instability=1.0))
    for step in range(8):
        batch = batch_of(photos, config, step).inputs()
        assert float(model.compute_loss(batch, y_pred=model(batch))) == pytest.approx(0, abs=1e-6)
    assert max(differences) == 0
    shifts = {tuple(batch_of(photos, config, step).views[0]) for step in range(8)}
    assert len(shifts) == 8
    grid = np.indices((64, 64)).sum(axis=0)[None, ..., None] % 8 * np.ones(3, np.float32)
    assert float(instability(grid[:, :32, :32], grid[:, 3:35, :32])[0]) > 0.5


@contextmanager
def killed_at_step(number, monkeypatch):
    """Whatever trains in this block is interrupted before its step `number`, counted from 0."""
    original = Photos.crops

    def crops(self, step, *rest, **named):
        if step == number and len(self.paths) > 1:
            raise KeyboardInterrupt
        return original(self, step, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Photos, "crops", crops)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_killed_run_resumes_and_ends_with_the_weights_of_an_unbroken_one(
    unbroken, paintings, random_photos, tmp_path, monkeypatch
):
    photos = Photos.of(random_photos)
    with killed_at_step(3, monkeypatch), pytest.raises(TrainingStopped):
        run_to(paintings, photos, tmp_path / "broken")
    resumed = run_to(paintings, photos, tmp_path / "broken")
    for a, b in zip(load(unbroken).get_weights(), load(resumed).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_run_goes_on_from_another_s_weights_finished_or_not(unbroken, paintings, random_photos, tmp_path):
    first = Run(shutil.copytree(unbroken.path, tmp_path / "first"))
    weights = load(first).get_weights()
    photos, schedule = Photos.of(random_photos), Schedule(1)
    config = configuration(steps=1, learning_rate=1e-9, content_error=(0.9,))

    def same_weights(network):
        for a, b in zip(weights, network.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    same_weights(load(train(config, paintings, photos, tmp_path / "from a finished run", schedule, initial=first)))
    (first.path / "result.json").unlink()
    network = build(TINY)
    warm_start(first, network)  # from its last checkpoint
    same_weights(network)
    narrower = replace(config, network=replace(TINY, width=6))
    with pytest.raises(RunError, match="cannot start from"):
        train(narrower, paintings, photos, None, schedule, initial=first)
    (first.path / "checkpoint.npz").unlink()
    with pytest.raises(RunError, match="has no weights yet"):
        train(config, paintings, photos, None, schedule, initial=first)


@pytest.mark.slow
def test_a_grown_network_paints_as_the_small_one_and_all_of_it_learns(random_photos):
    photos, small, rng = Photos.of(random_photos), build(TINY), np.random.default_rng(1)
    for variable in small.variables:
        variable.assign(variable + rng.normal(scale=0.1, size=variable.shape))
    large = build(replace(TINY, width=2 * TINY.width, blocks=TINY.blocks + 1))
    grow(small, large)
    photo = next(photos.one_crop_each(32))
    for style in (one_hot(0), one_hot(1)):
        np.testing.assert_allclose(large((photo, style)), small((photo, style)), atol=1e-2)
    before = large.get_weights()

    def difference(painted, photo, style_weights, content_weight):
        return Measured(((1.0, "content", ops.mean(ops.square(painted - photo), axis=(1, 2, 3))),))

    model = trainer(large, difference, configuration())
    model.compile(optimizer=keras.optimizers.SGD(1e-4))
    for step in range(3):
        batch = batch_of(photos, configuration(batch_size=1), step)
        model.train_on_batch(replace(batch, style_weights=one_hot(0)).inputs())
    for name, a, b in zip(large.variables, before, large.get_weights(), strict=True):
        assert np.any(a != b), f"{name.path} does not learn"


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_new_style_is_learnt_and_all_others_stay_bit_for_bit(unbroken, paintings, random_photos, tmp_path):
    photos, source = Photos.of(random_photos), unbroken
    painting = paintings["dots"]
    run = add(source, "waves", painting, photos, tmp_path / "three", Schedule(3, 2, 3, 3), learning_rate=0.02)
    old, new = load(source), load(run)
    assert new.config.styles == ("dots", "lines", "waves")
    photo = next(photos.one_crop_each(32))
    for index in (0, 1):
        before = np.asarray(old((photo, one_hot(index))))
        np.testing.assert_array_equal(np.asarray(new((photo, np.eye(3, dtype=np.float32)[[index]]))), before)
    begun = np.asarray(new((photo, np.full((1, 3), 1 / 2, np.float32) * [[1, 1, 0]])))
    assert np.abs(np.asarray(new((photo, np.eye(3, dtype=np.float32)[[2]]))) - begun).max() > 1e-3
    with pytest.raises(RunError, match="has a style 'dots' already"):
        add(source, "dots", painting, photos, None, Schedule(1))


@pytest.mark.slow
def test_gatys_pairs_are_made_once_and_then_copied(paintings, random_photos, tmp_path):
    made = []
    pairs = Pairs(tmp_path / "pairs", TINY.styles, count=4, batch_size=2)
    asked = GatysParameters(steps=1, features="compact")
    photos = Photos.of(random_photos)

    def stopped(done):
        made.append(done)
        if len(made) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs.make(photos, paintings, 64, asked, stopped)
    kept = {path: path.stat().st_mtime_ns for path in pairs.folder.iterdir()}
    pairs.make(photos, paintings, 64, asked)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(pairs.folder.iterdir())) == 8
    config = configuration(steps=12, distilled_steps=12, batch_size=2)
    with running_eagerly():
        run = train(config, paintings, photos, tmp_path / "run", Schedule(12, 3, 12, 12), pairs)
    losses = [float(line.split(",")[1]) for line in (run.path / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_small_network_copies_a_large_one(paintings, random_photos, tmp_path):
    photos, config = Photos.of(random_photos), configuration(steps=12, distilled_steps=12, learning_rate=1e-2)
    large = build(replace(TINY, preset="johnson"))
    large.to_rgb.conv.bias.assign([0.3, -0.2, 0.1])
    teacher = NetworkTeacher(large, lambda step: batch_of(photos, config, step))
    run = train(config, paintings, photos, tmp_path / "run", Schedule(12, 5, 12, 12), teacher)
    photo = next(photos.one_crop_each(32))
    far, near = (np.abs(np.asarray(net((photo, one_hot(0)))) - np.asarray(large((photo, one_hot(0))))).mean()
                 for net in (build(TINY), load(run)))  # fmt: skip
    assert near < 0.7 * far


@pytest.mark.slow
def test_training_lowers_the_loss(paintings, random_photos, tmp_path):
    config, schedule = configuration(steps=25, learning_rate=5e-3), Schedule(25, 5, 25, 25)
    run = train(config, paintings, Photos.of(random_photos), tmp_path / "run", schedule)
    losses = [float(line.split(",")[1]) for line in (run.path / "metrics.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    assert StyleTraining.from_dict(run.config) == config


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_vgg19_measures_the_loss_where_its_weights_are(paintings, random_photos, tmp_path, data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    config = configuration(steps=1, features="vgg19")
    run = train(config, paintings, Photos.of(random_photos), tmp_path / "run", Schedule(1))
    assert np.isfinite(run.result["held_out_loss"])


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_stopped_run_goes_on_from_its_own_settings_and_data(paintings, random_photos, tmp_path, monkeypatch):
    """The command says nothing but the run; what is said otherwise is refused with both values."""
    command = ["train", "style", *(f"--style={path}" for path in paintings.values()), f"--content={random_photos}"]
    shape = ["--features=compact", "--size=32", "--style-size=48", "--width=12", "--blocks=1", "--steps=3"]
    invoke = lambda *arguments: CliRunner().invoke(cli, [*map(str, arguments)])  # noqa: E731
    run = Run(tmp_path / "run")
    with killed_at_step(2, monkeypatch):
        stopped = invoke(*command, *shape, "--seed=7", "--content-error=0.4", "--run", run.path)
    assert isinstance(stopped.exception, TrainingStopped), stopped.output
    assert run.checkpoints.load()[0] == 2
    monkeypatch.chdir(tmp_path)
    other = invoke("train", "style", "--run", run.path, "--seed=8")
    assert "seed is 7 there and 8 here" in str(other.exception)
    resumed = invoke("train", "style", "--run", run.path)
    assert resumed.exit_code == 0, resumed.output
    assert (run.config["seed"], run.config["content_error"], run.result["steps"]) == (7, [0.4], 3)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_run_does_not_go_on_with_other_photographs_or_another_painting_of_the_same_name(
    unbroken, paintings, random_photos, tmp_path
):
    run = Run(shutil.copytree(unbroken.path, tmp_path / "run"))
    fewer, moved = Photos(Photos.of(random_photos).paths[:-1]), dict(paintings)
    with pytest.raises(RunError, match="photographs_sha256 is"):
        train(configuration(), paintings, fewer, run.path, Schedule(4))
    moved["dots"] = tmp_path / "dots.png"
    moved["dots"].write_bytes(paintings["lines"].read_bytes())
    with pytest.raises(RunError, match=r"paintings_sha256\.dots is"):
        train(configuration(), moved, Photos.of(random_photos), run.path, Schedule(4))
    added = add(run, "new", paintings["dots"], Photos.of(random_photos), tmp_path / "added", Schedule(1))
    with pytest.raises(RunError, match=r"paintings_sha256\.new is"):
        add(run, "new", paintings["lines"], Photos.of(random_photos), added.path, Schedule(1))
    with pytest.raises(RunError, match="photographs_sha256 is"):
        add(run, "new", paintings["dots"], fewer, added.path, Schedule(1))


@pytest.mark.parametrize("errors", [(), (0.5, 0.5, 0.5), (0.0,), (float("nan"),), (-1.0, 0.5)])
def test_content_errors_that_fit_no_styles_are_refused(errors):
    with pytest.raises(ValueError, match="accepted: numbers above 0"):
        configuration(content_error=errors)


@pytest.mark.slow
def test_a_style_that_is_added_gives_up_as_much_of_the_photograph_as_the_others(unbroken, tmp_path):
    run = Run(shutil.copytree(unbroken.path, tmp_path / "run"))
    settings = run.config | {"content_error": [0.4, 0.8]}
    (run.path / "config.json").write_text(json.dumps(settings))
    assert extended(run, "new").content_error == pytest.approx((0.4, 0.8, 0.6))


def test_two_paintings_of_one_name_are_refused(tmp_path):
    with pytest.raises(RunError, match="would both be the style 'x'"):
        named_paintings([tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"])


@pytest.mark.parametrize("name", ["a,b", "a=1", "", " a", "a:b", "a\nb", "a  b", "{a}"])
def test_a_name_that_clients_could_not_write_is_refused(name):
    with pytest.raises(ValueError, match="accepted: letters"):
        StyleNetworkConfig((name,))


@pytest.mark.parametrize("name", ["the_scream", "große Welle", "Composition-VII.2"])
def test_a_name_in_any_script_is_accepted(name):
    assert StyleNetworkConfig((name,)).styles == (name,)


def test_held_out_photos_are_not_trained_on(random_photos):
    kept, held_out = Photos.of(random_photos).split(2)
    assert len(held_out.paths) == 2
    assert not set(kept.paths) & set(held_out.paths)


def test_a_folder_without_photographs_is_named(tmp_path):
    with pytest.raises(PhotosError, match="holds 0 images"):
        Photos.of(tmp_path)
