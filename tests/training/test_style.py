import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from synthesis import gatys, images
from synthesis.gatys import GatysParameters
from training.loop import Schedule
from training.photos import Photos, PhotosError
from training.runs import Run, RunError
from training.style.add import add
from training.style.loss import PerceptualLoss, with_statistics
from training.style.network import PRESETS, StyleNetworkConfig, build, grow
from training.style.teachers import NetworkTeacher, Pairs
from training.style.train import StyleTrainer, StyleTraining, batch_of, go_on_from, load, train

TINY = StyleNetworkConfig(("dots", "lines"), width=12, blocks=1)


@pytest.fixture(autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paintings")
    rng = np.random.default_rng(1)
    for name in TINY.styles:
        (folder / f"{name}.png").write_bytes(images.encode(rng.integers(0, 256, (64, 80, 3), np.uint8)))
    return {name: folder / f"{name}.png" for name in TINY.styles}


def one_hot(index):
    return np.eye(2, dtype=np.float32)[[index]]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (64, 48)])
def test_the_network_keeps_the_picture_s_size(preset, height, width):
    network = build(replace(TINY, preset=preset))
    out = network((np.zeros((1, height, width, 3), np.float32), one_hot(0)))
    assert out.shape == (1, height, width, 3)


@pytest.mark.parametrize("change", [{"preset": "slow"}, {"width": 5}, {"blocks": -1}, {"styles": ("a", "a")}])
def test_a_shape_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="accepted"):
        replace(TINY, **change)


def test_a_large_preset_has_johnson_s_1_68_million_parameters():
    network = build(StyleNetworkConfig(("one",), "johnson"))
    convolutions = sum(layer.kernel.shape.num_elements() for layer in network.convolutions())
    assert convolutions == 1_674_432


def test_styles_differ_only_through_their_normalisation_and_blend_linearly_in_its_parameters():
    network = build(TINY)
    photo = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    same = [np.asarray(network((photo, one_hot(i)))) for i in (0, 1)]
    np.testing.assert_allclose(same[0], same[1], atol=1e-3)
    network.to_rgb.conv.kernel.assign(np.full((3, 3, 2, 3), 0.1))
    network.up[-1].norm.beta.assign(np.array([[0.0] * 2, [1.0] * 2]))
    assert np.abs(np.asarray(network((photo, one_hot(1)))) - same[0]).max() > 0.1


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
    return run_to(paintings, Photos.of(random_photos), tmp_path_factory.mktemp("runs") / "unbroken")


def test_all_styles_come_equally_often(random_photos):
    config, photos = configuration(batch_size=3), Photos.of(random_photos)
    batches = [batch_of(photos, config, step) for step in range(8)]
    assert {b[0].shape[:2] for b in batches} == {(3, 40)}
    assert np.concatenate([b[1] for b in batches]).sum(axis=0).tolist() == [12, 12]


def test_the_loss_s_objective_is_the_book_s(data, monkeypatch):
    """But for its content loss and its fifth style layer, which are small, at the size that the loss speaks of."""
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    monkeypatch.setattr("training.style.loss.PIXELS", 64 * 96)
    rng = np.random.default_rng(0)
    painted, photo, painting = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    goal = gatys.objective("vgg19")
    targets = gatys.book_targets(goal, photo, painting, GatysParameters(recipe="book", features="vgg19"))
    book = goal.measure(painted.astype(np.float64), targets)
    loss = PerceptualLoss([painting, photo], content_weight=1.0)
    batch = [x[None].astype(np.float32) for x in (painted, photo)]
    objective, _ = loss.parts(*batch, one_hot(0))
    left_out = book.parts["content"] + book.layers["style block5_conv1"]
    assert float(objective[0]) == pytest.approx(book.loss - left_out, rel=1e-4)


def test_activations_take_over_the_painting_s_statistics_and_keep_their_pattern():
    rng = np.random.default_rng(0)
    x, mean, deviation = rng.normal(3, 200, (2, 8, 8, 4)), rng.normal(size=(2, 4)), rng.uniform(1, 2, (2, 4))
    moved = np.asarray(with_statistics(x, mean.astype(np.float32), deviation.astype(np.float32)))
    np.testing.assert_allclose(moved.mean(axis=(1, 2)), mean, atol=1e-3)
    np.testing.assert_allclose(moved.std(axis=(1, 2)), deviation, rtol=1e-3)
    assert np.corrcoef(moved[0, ..., 0].ravel(), x[0, ..., 0].ravel())[0, 1] > 0.9999


@pytest.mark.usefixtures("eagerly")
def test_a_killed_run_resumes_and_ends_with_the_weights_of_an_unbroken_one(
    unbroken, paintings, random_photos, tmp_path, monkeypatch
):
    photos = Photos.of(random_photos)
    original = Photos.crops

    def killed_at_step_3(self, step, *rest, **named):
        if step == 3 and len(self.paths) > 1:
            raise KeyboardInterrupt
        return original(self, step, *rest, **named)

    monkeypatch.setattr(Photos, "crops", killed_at_step_3)
    with pytest.raises(KeyboardInterrupt):
        run_to(paintings, photos, tmp_path / "broken")
    monkeypatch.setattr(Photos, "crops", original)
    resumed = run_to(paintings, photos, tmp_path / "broken")
    for a, b in zip(load(unbroken).get_weights(), load(resumed).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_goes_on_from_another_s_weights_finished_or_not(unbroken, paintings, random_photos, tmp_path):
    first = Run(shutil.copytree(unbroken.path, tmp_path / "first"))
    weights = load(first).get_weights()
    photos, schedule = Photos.of(random_photos), Schedule(1)
    config = configuration(steps=1, learning_rate=1e-9, content_weight=2.0)

    def same_weights(network):
        for a, b in zip(weights, network.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    same_weights(load(train(config, paintings, photos, tmp_path / "from a finished run", schedule, initial=first)))
    (first.path / "result.json").unlink()
    network = build(TINY)
    go_on_from(first, network)  # from its last checkpoint
    same_weights(network)
    narrower = replace(config, network=replace(TINY, width=6))
    with pytest.raises(RunError, match="cannot be gone on from"):
        train(narrower, paintings, photos, None, schedule, initial=first)
    (first.path / "checkpoint.npz").unlink()
    with pytest.raises(RunError, match="has no weights yet"):
        train(config, paintings, photos, None, schedule, initial=first)


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
    model = StyleTrainer(large, lambda painted, photo, style: ops.mean(ops.square(painted - photo)))
    model.compile(optimizer=keras.optimizers.SGD(1e-4))
    for _ in range(3):
        model.train_on_batch((photo, one_hot(0), np.zeros((1, 2), np.int32)))
    for name, a, b in zip(large.variables, before, large.get_weights(), strict=True):
        assert np.any(a != b), f"{name.path} does not learn"


def test_a_new_style_is_learnt_and_all_others_stay_bit_for_bit(unbroken, paintings, random_photos, tmp_path):
    photos, source = Photos.of(random_photos), unbroken
    painting = paintings["dots"]
    run = add(source, "waves", painting, photos, tmp_path / "three", Schedule(6, 2, 6, 6), learning_rate=0.02)
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
    config = configuration(steps=60, distilled_steps=60, batch_size=2)
    run = train(config, paintings, photos, tmp_path / "run", Schedule(60, 5, 60, 60), pairs)
    losses = [float(line.split(",")[1]) for line in (run.path / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


def test_a_small_network_copies_a_large_one(paintings, random_photos, tmp_path):
    photos, config = Photos.of(random_photos), configuration(steps=40, distilled_steps=40)
    large = build(replace(TINY, preset="johnson"))
    large.to_rgb.conv.bias.assign([0.3, -0.2, 0.1])
    teacher = NetworkTeacher(large, lambda step: batch_of(photos, config, step))
    run = train(config, paintings, photos, tmp_path / "run", Schedule(40, 5, 40, 40), teacher)
    photo = next(photos.one_crop_each(32))
    far, near = (np.abs(np.asarray(net((photo, one_hot(0)))) - np.asarray(large((photo, one_hot(0))))).mean()
                 for net in (build(TINY), load(run)))  # fmt: skip
    assert near < 0.7 * far


def test_training_lowers_the_loss(paintings, random_photos, tmp_path):
    run = train(configuration(steps=80), paintings, Photos.of(random_photos), tmp_path / "run", Schedule(80, 5, 80, 80))
    losses = [float(line.split(",")[1]) for line in (run.path / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] - 0.2  # Logarithms: by a fifth.
    assert StyleTraining.from_dict(run.config) == configuration(steps=80)


def test_vgg19_measures_the_loss_where_its_weights_are(paintings, random_photos, tmp_path, data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    config = configuration(steps=1, features="vgg19")
    run = train(config, paintings, Photos.of(random_photos), tmp_path / "run", Schedule(1))
    assert np.isfinite(run.result["held_out_loss"])


def test_held_out_photos_are_not_trained_on(random_photos):
    kept, held_out = Photos.of(random_photos).split(8)
    assert len(held_out.paths) == 8
    assert not set(kept.paths) & set(held_out.paths)


def test_a_folder_without_photographs_is_named(tmp_path):
    with pytest.raises(PhotosError, match="holds 0 images"):
        Photos.of(tmp_path)
