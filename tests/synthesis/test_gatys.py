import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.reference.book import BookTransfer
from imaging import images
from reverie.errors import Cancelled, InputError
from synthesis import features, gatys, objective, optimizers
from synthesis.gatys import GatysParameters, TransferJob, transfer
from synthesis.objective import Style
from synthesis.progress import NotANumberError
from synthesis.stages import plan

SMALL = GatysParameters(features="compact", steps=8, size=72, precision="float32")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [images.resize(rng.integers(0, 256, (n, n + 2, 3), np.uint8), 64, 72) for n in (6, 30)]


def losses_of(pictures, **changes):
    records = []
    out = transfer(*pictures, SMALL.model_copy(update=changes), records.append)
    return [r.loss for r in records], out


@pytest.mark.slow
def test_the_objective_is_the_book_s(pictures):
    """Listings 12-19 to 12-22 written out: three pictures, sums of squares, the book's divisors and weights."""
    content, style, picture = (p.astype(np.float32) for p in (*pictures, pictures[0][::-1]))
    network = features.defaults("compact")
    extract = features.load("compact", [*network.style_layers, network.content_layer])
    activations = [[np.asarray(a)[0].astype(np.float64) for a in extract(p[None])] for p in (content, style, picture)]
    expected = 2.5e-8 * ((activations[2][-1] - activations[0][-1]) ** 2).sum()
    for s, p in zip(activations[1][:-1], activations[2][:-1], strict=True):
        grams = [np.einsum("hwc,hwd->cd", a, a) for a in (s, p)]
        expected += 1e-6 / 5 * ((grams[0] - grams[1]) ** 2).sum() / (4 * 3**2 * (64 * 72) ** 2)
    down, right = picture[:-1, :-1] - picture[1:, :-1], picture[:-1, :-1] - picture[:-1, 1:]
    expected += 1e-6 * ((down**2 + right**2) ** 1.25).sum()

    goal = gatys.objective("compact")
    targets = gatys.book_targets(goal, *pictures, gatys.BOOK)
    measured = goal.measure(picture, targets)
    assert measured.loss == pytest.approx(expected, rel=1e-3)
    assert sum(measured.parts.values()) == pytest.approx(measured.loss, rel=1e-5)


def test_the_gradient_points_uphill(pictures):
    goal = gatys.objective("compact")
    targets = gatys.book_targets(goal, *pictures, gatys.BOOK)
    start = pictures[0].astype(np.float64)
    here = goal.measure(start, targets)
    length = np.linalg.norm(here.gradient)
    risen = goal.measure(start + 0.5 * here.gradient / length, targets)
    assert risen.loss - here.loss == pytest.approx(0.5 * length, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "rate"), [("lbfgs", 0), ("adam", 5), ("sgd", 0.5)])
def test_every_optimizer_lowers_the_loss(pictures, optimizer, rate):
    losses, out = losses_of(pictures, optimizer=optimizer, learning_rate=rate)
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]
    assert out.shape == pictures[0].shape


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(16, 400), (400, 16), (17, 31)])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"scales": 5, "style_scale": 0.25, "initial": "style"}])
def test_the_narrowest_pictures_that_are_accepted_are_painted(pictures, height, width, changes):
    content = images.resize(pictures[0], height, width)
    painted = transfer(content, pictures[1], SMALL.model_copy(update=changes | {"steps": 2, "size": 400}))
    assert painted.shape == content.shape


@pytest.mark.parametrize("shape", [(100, 3000, 3), (3000, 100, 3)])
def test_a_picture_too_narrow_for_the_size_is_refused_with_the_size_that_it_needs(pictures, shape):
    content = np.zeros(shape, np.uint8)
    with pytest.raises(images.ImageError, match=r"(400x13|13x400) at size 400") as refused:
        transfer(content, pictures[1], GatysParameters(features="compact"))
    assert "a size of at least 465" in str(refused.value)
    painted = transfer(content, pictures[1], GatysParameters(features="compact", size=465, steps=1))
    assert min(painted.shape[:2]) == 16


@pytest.mark.slow
def test_lbfgs_needs_fewer_steps_than_sgd(pictures):
    assert losses_of(pictures)[0][-1] < losses_of(pictures, optimizer="sgd", learning_rate=0.5)[0][-1]


def test_cancelling_stops_within_one_step(pictures):
    steps = []

    def cancel_at_third(progress):
        steps.append(progress.step)
        if progress.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        transfer(*pictures, SMALL, cancel_at_third)
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_same_seed_same_picture_and_other_seed_other_noise(pictures):
    same = [losses_of(pictures, initial="noise", seed=3)[1] for _ in range(2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (losses_of(pictures, initial="noise", seed=4)[1] != same[0]).any()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_loss_that_is_no_number_ends_the_job_with_its_last_good_picture(pictures):
    with pytest.raises(NotANumberError, match="NaN or infinite at step") as caught:
        transfer(*pictures, SMALL.model_copy(update={"optimizer": "sgd", "learning_rate": 1e12, "bounded": False}))
    assert caught.value.image.shape == pictures[0].shape


def test_one_trace_serves_all_sizes(pictures):
    goal = gatys.objective("compact")
    for size in (64, 80):
        picture = images.resize(pictures[0], size, size + 8)
        goal.measure(picture, gatys.book_targets(goal, picture, picture, gatys.BOOK))
    assert goal.loss_and_gradient.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_through_vgg19_loss_and_gradient_are_those_of_the_book_s_loop(pictures, data, monkeypatch):
    """Listings 12-16 to 12-23, three pictures in every step; the fast objective computes its targets once."""
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    features.network.cache_clear()
    model = keras.applications.VGG19(weights=None, include_top=False)
    model.load_weights(features.weights_path("vgg19"))
    content, style, picture = (p.astype(np.float32) for p in (*pictures, pictures[0][::-1]))
    to_caffe = keras.applications.vgg19.preprocess_input
    book = BookTransfer(model)
    loss, gradient = book.loss_and_gradient(*(tf.constant(to_caffe(p[None].copy())) for p in (picture, content, style)))
    goal = gatys.objective("vgg19")
    ours = goal.measure(picture, gatys.book_targets(goal, *pictures, gatys.BOOK))
    assert ours.loss == pytest.approx(float(loss), rel=1e-4)
    difference = ours.gradient - gradient.numpy()[0, ..., ::-1]
    assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(ours.gradient)


def test_a_larger_picture_is_painted_from_small_to_full_size_and_ends_in_float32():
    stages = plan(400, 600, GatysParameters(steps=100, precision="bfloat16"))
    assert [(s.height, s.width) for s in stages] == [(100, 150), (200, 300), (400, 600)]
    assert sum(s.steps for s in stages) == 100
    assert [s.exact for s in stages] == [0, 0, 10]


def test_sgd_is_the_book_s_at_one_size_in_float32():
    (stage,) = plan(400, 600, GatysParameters(optimizer="sgd", steps=7))
    assert (stage.steps, stage.exact, stage.dtype) == (7, 7, "float32")


@pytest.mark.slow
def test_lbfgs_runs_once_a_stage_so_that_it_keeps_its_memory(pictures, monkeypatch):
    runs = []
    minimize = optimizers.scipy.optimize.minimize
    monkeypatch.setattr(
        optimizers.scipy.optimize, "minimize", lambda *a, **k: runs.append(a[1].size) or minimize(*a, **k)
    )
    records = []
    wide = [images.resize(p, 130, 140) for p in pictures]
    transfer(*wide, SMALL.model_copy(update={"size": 140, "steps": 12, "preview_every": 1}), records.append)
    assert runs == [65 * 70 * 3, 130 * 140 * 3]
    assert [r.stage for r in records] == [0] * 5 + [1] * 7


@pytest.mark.slow
def test_the_last_loss_is_the_float32_objective_of_the_result(pictures):
    records = []
    settings = SMALL.model_copy(update={"precision": "bfloat16", "steps": 12})
    # The pixels before they are clipped and rounded to a picture.
    pixels = TransferJob(pictures[0], [Style(pictures[1])], settings, records.append).run()
    goal = gatys.objective("compact")
    exact = goal.measure(pixels, gatys.book_targets(goal, *pictures, settings)).loss
    assert records[-1].loss == pytest.approx(exact, rel=1e-4)


@pytest.mark.slow
def test_two_styles_are_blended_by_their_weights(pictures):
    content, style = pictures
    other = np.ascontiguousarray(255 - style[::-1])

    def blend(weights):
        return transfer(content, [style, other], SMALL.model_copy(update={"style_weights": weights}))

    alone = transfer(content, style, SMALL)
    assert np.abs(blend((1.0, 0.0)).astype(int) - alone).mean() < 1
    assert np.abs(blend((0.0, 1.0)).astype(int) - alone).mean() > 5


@pytest.mark.slow
def test_masks_give_each_region_its_own_style():
    content = np.full((64, 72, 3), 128, np.uint8)
    styles = [np.full((64, 64, 3), color, np.uint8) for color in ((230, 30, 30), (30, 30, 230))]
    left = np.zeros((64, 72), np.uint8)
    left[:, :36] = 255

    def redder_on_the_left(masks) -> float:
        out = transfer(content, styles, SMALL.model_copy(update={"steps": 15}), masks=masks).astype(int)
        redness = out[..., 0] - out[..., 2]
        return redness[:, :28].mean() - redness[:, 44:].mean()

    assert redder_on_the_left([left, 255 - left]) > 5
    assert redder_on_the_left([255 - left, left]) < -5


@pytest.mark.slow
def test_preserved_colors_leave_the_chroma(pictures):
    out = transfer(*pictures, SMALL.model_copy(update={"preserve_colors": True}))
    photo = pictures[0].astype(int)
    inside = ((out > 0) & (out < 255)).all(axis=2)
    change = (out - photo)[inside]
    assert np.abs(change).mean() > 1
    assert (change.max(axis=1) - change.min(axis=1)).max() <= 1


def test_the_recipe_book_has_the_book_s_weights_and_what_is_given_goes_before_it():
    weights = {"content_weight": 2.5e-8, "style_weight": 1e-6, "total_variation_weight": 1e-6, "bounded": False}
    assert GatysParameters(recipe="book").model_dump().items() >= weights.items()
    given = GatysParameters(recipe="book", content_weight=3)
    assert (given.content_weight, given.bounded) == (3.0, False)
    assert GatysParameters().content_weight == 40 * gatys.BOOK.content_weight


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "rate"), [("lbfgs", 0), ("adam", 20), ("sgd", 0.5)])
def test_bounded_pixels_stay_in_range_in_every_step_and_the_reported_loss_is_the_result_s(pictures, optimizer, rate):
    evaluated: list[np.ndarray] = []
    goal = gatys.objective("compact")
    dark = [np.where(p < 128, 0, 255).astype(np.uint8) for p in pictures]  # Unbounded, half of the pixels would leave.
    targets = gatys.book_targets(goal, *dark, SMALL)

    def evaluate(pixels: np.ndarray) -> objective.Evaluation:
        evaluated.append(pixels)
        return goal.measure(pixels, targets)

    def leaves_the_range(bounded: bool) -> bool:
        evaluated.clear()
        minimize = optimizers.OPTIMIZERS[optimizer]
        minimize(evaluate, dark[0].astype(float), 6, rate, lambda pixels, here: None, bounded)
        return min(p.min() for p in evaluated) < 0 or max(p.max() for p in evaluated) > 255

    assert leaves_the_range(False)
    assert not leaves_the_range(True)


@pytest.mark.slow
def test_the_loss_of_a_bounded_picture_is_nearly_that_of_the_file_that_is_returned(pictures):
    def excess(bounded: bool) -> float:
        records = []
        settings = SMALL.model_copy(update={"steps": 25, "bounded": bounded})
        out = transfer(*pictures, settings, records.append)
        goal = gatys.objective("compact")
        return goal.measure(out, gatys.book_targets(goal, *pictures, settings)).loss / records[-1].loss

    assert excess(True) < 1.1 < excess(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "average", "style_layers": {"block1_conv1": 1.0}, "content_layers": {"block4_conv1": 1.0}},
        {"style_scale": 2.0},
        {"initial": "style"},
        {"scales": 2},
    ],
)
def test_every_choice_changes_the_picture_and_lowers_the_loss(pictures, changes):
    losses, out = losses_of(pictures, **changes)
    assert losses[-1] < losses[0]
    assert (out != losses_of(pictures)[1]).any()


def test_time_that_is_up_returns_the_best_so_far_marked_so(pictures):
    records = []
    settings = SMALL.model_copy(update={"steps": 1000, "max_seconds": 0.2})
    pixels = TransferJob(pictures[0], [Style(pictures[1])], settings, records.append).run()
    assert [r.stopped for r in records] == [""] * (len(records) - 1) + ["max_seconds"]
    assert len(records) < 1000
    goal = gatys.objective("compact")
    reached = goal.measure(pixels, gatys.book_targets(goal, *pictures, settings)).loss
    assert reached == pytest.approx(min(r.loss for r in records), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "masks", "message"),
    [
        ({"style_weights": (1.0, 2.0)}, 0, r"style_weights: .* for 1 style images"),
        ({"style_weights": (0.0,)}, 0, "not all 0"),
        ({}, 2, "style_mask: 2 masks for 1 style images"),
        ({"style_layers": {"block9_conv9": 1.0}}, 0, "'block9_conv9' is not in compact; accepted: block1_conv1"),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused(pictures, changes, masks, message):
    with pytest.raises(InputError, match=message):
        transfer(*pictures, SMALL.model_copy(update=changes), masks=[pictures[0]] * masks)


def test_a_mask_of_another_size_is_refused_with_the_size(pictures):
    with pytest.raises(images.ImageError, match="style_mask: 10x20 pixels; accepted: the size of the image, 72x64"):
        transfer(*pictures, SMALL, masks=[np.zeros((20, 10), np.uint8)])


def test_no_style_and_too_many_are_refused(pictures):
    for styles in ([], [pictures[1]] * 9):
        with pytest.raises(InputError, match=f"style_image: {len(styles)} pictures; accepted: 1 to 8"):
            transfer(pictures[0], styles, SMALL)


@pytest.mark.parametrize("picture", ["content", "style"])
def test_pixels_that_are_no_uint8_are_refused(pictures, picture):
    wrong = {"content": pictures[0], "style": pictures[1]} | {picture: np.full((64, 72, 3), np.nan)}
    with pytest.raises(images.ImageError, match=r"float64 \(64, 72, 3\); accepted: uint8"):
        transfer(wrong["content"], wrong["style"], SMALL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"steps": 10**9},
        {"content_weight": float("nan")},
        {"style_weight": -1},
        {"total_variation_weight": float("inf")},
        {"optimizer": "newton"},
        {"size": 3},
        {"learning_rate": -1},
        {"style_weights": (-1.0,)},
        {"style_scale": 0},
        {"pooling": "min"},
        {"recipe": "cake"},
        {"initial": "nothing"},
        {"scales": 9},
        {"max_seconds": float("nan")},
        {"seed": -1},
        {"style_layers": {"a": float("nan")}},
        {"unknown": 1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GatysParameters(**wrong)


def test_inception_is_refused_because_the_objective_is_vgg_s(pictures):
    with pytest.raises(features.FeaturesError, match="has no style layers; accepted: vgg19, compact"):
        transfer(*pictures, SMALL.model_copy(update={"features": "inception_v3"}))


def test_only_the_deepest_layers_that_hold_next_to_nothing_are_left_out():
    layers = objective.layers_of("compact")
    losses = {f"style {name}": 100.0 for name in layers.style[:4]} | {f"style {layers.style[4]}": 1.0}
    kept = objective.without_negligible(layers, losses | {"content block5_conv2": 1.0}, 0.01)
    assert (kept.style, kept.content) == (layers.style[:4], ())
    kept = objective.without_negligible(layers, losses | {"content block5_conv2": 50.0}, 0.01)
    assert kept == layers
    kept = objective.without_negligible(layers, {"style block1_conv1": 1.0}, 0.01)
    assert kept.style == ("block1_conv1",)


@pytest.mark.slow
def test_records_say_which_losses_are_estimates(pictures):
    """Fast steps may leave layers out; the records say so, and the last ones have the whole objective."""
    wide = [images.resize(p, 130, 140) for p in pictures]
    records = []
    settings = SMALL.model_copy(update={"size": 140, "steps": 20, "precision": "bfloat16"})
    transfer(*wide, settings, records.append)
    assert [r.exact for r in records] == [False] * 18 + [True] * 2
    assert records[-1].parts["content"] > 0
