import numpy as np
import pytest

from synthesis import features, gatys, images
from synthesis.gatys import GatysParameters, transfer
from synthesis.progress import Cancelled, NotANumberError

SMALL = GatysParameters(features="compact", steps=8, size=72)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [images.resize(rng.integers(0, 256, (n, n + 2, 3), np.uint8), 64, 72) for n in (6, 30)]


def losses_of(pictures, **changes):
    records = []
    out = transfer(*pictures, SMALL.model_copy(update=changes), records.append)
    return [r.loss for r in records], out


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
    targets = goal.targets(*pictures, GatysParameters())
    assert goal.at(picture, targets)[0] == pytest.approx(expected, rel=1e-3)


def test_the_gradient_points_uphill(pictures):
    goal = gatys.objective("compact")
    targets = goal.targets(*pictures, GatysParameters())
    start = pictures[0].astype(np.float64)
    loss, gradient = goal.at(start, targets)
    direction = gradient / np.linalg.norm(gradient)
    risen, _ = goal.at(start + 0.5 * direction, targets)
    assert risen - loss == pytest.approx(0.5 * np.linalg.norm(gradient), rel=0.1)


@pytest.mark.parametrize(("optimizer", "rate"), [("lbfgs", 0), ("adam", 5), ("sgd", 0.5)])
def test_every_optimiser_lowers_the_loss(pictures, optimizer, rate):
    losses, out = losses_of(pictures, optimizer=optimizer, learning_rate=rate)
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]
    assert out.shape == pictures[0].shape


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


def test_same_seed_same_picture_and_other_seed_other_noise(pictures):
    same = [losses_of(pictures, initial="noise", seed=3)[1] for _ in range(2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (losses_of(pictures, initial="noise", seed=4)[1] != same[0]).any()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_loss_that_is_no_number_ends_the_job_with_its_last_good_picture(pictures):
    with pytest.raises(NotANumberError, match="NaN or infinite at step") as caught:
        transfer(*pictures, SMALL.model_copy(update={"optimizer": "sgd", "learning_rate": 1e12, "steps": 50}))
    assert caught.value.image.shape == pictures[0].shape


def test_one_trace_serves_all_sizes(pictures):
    goal = gatys.objective("compact")
    for size in (64, 80):
        picture = images.resize(pictures[0], size, size + 8)
        goal.at(picture.astype(np.float64), goal.targets(picture, picture, GatysParameters()))
    assert goal.loss_and_gradient.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"content_weight": float("nan")}, {"optimizer": "newton"}, {"size": 3}]
)
def test_parameters_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GatysParameters(**wrong)


def test_inception_is_refused_because_the_objective_is_vgg_s(pictures):
    with pytest.raises(features.FeaturesError, match="has no style layers; accepted: vgg19, compact"):
        transfer(*pictures, SMALL.model_copy(update={"features": "inception_v3"}))
