"""Styles as vectors: painting with them, drafting them from a painting, and fitting them to one."""

import itertools
from dataclasses import replace

import keras
import numpy as np
import pytest

from reverie.errors import InputError
from synthesis.style.learn import LearnParameters, learn
from synthesis.style.network import StyleNetworkConfig, build
from synthesis.style.predictor import StylePredictor, principal_components, restored, statistics_of

TINY = StyleNetworkConfig(("dots", "lines"), width=12, blocks=1)
RNG = np.random.default_rng(0)
PAINTING = np.kron(RNG.integers(0, 256, (8, 10, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
PHOTOGRAPH = np.kron(RNG.integers(0, 256, (5, 6, 3), np.uint8), np.ones((24, 24, 1), np.uint8))
FEW = LearnParameters(max_seconds=3600, max_steps=3, size=64, style_size=80, crops=2, features="compact")


@pytest.fixture(scope="module")
def network():
    """With a style of its own in every row, and features that come in."""
    keras.config.set_dtype_policy("float32")
    made, rng = build(TINY), np.random.default_rng(1)
    for table in made.tables():
        table.assign(rng.uniform(0.2, 1.0, table.shape))
    made.to_rgb.conv.kernel.assign(rng.normal(0, 0.1, made.to_rgb.conv.kernel.shape))
    return made


def draft_of(network):
    return np.asarray(network.vectors(np.full((1, 2), 0.5, np.float32)))[0]


def test_a_vector_holds_each_normalization_s_scales_and_shifts_and_then_the_share(network):
    vector = np.asarray(network.vectors(np.float32([[0, 1]])))
    assert vector.shape == (1, network.length)
    pairs = list(network.scalings(vector))
    assert len(pairs) == len(network.normalized())
    for (gamma, beta), layer in zip(pairs, network.normalized(), strict=True):
        np.testing.assert_array_equal(gamma[0], layer.norm.gamma[1])
        np.testing.assert_array_equal(beta[0], layer.norm.beta[1])
    assert vector[0, -1] == network.to_rgb.share[1, 0]


def test_a_network_paints_each_picture_of_a_batch_with_its_own_vector(network):
    photo = RNG.uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    vectors = np.asarray(network.vectors(np.eye(2, dtype=np.float32)))
    together = np.asarray(network.paint(np.repeat(photo, 2, axis=0), vectors))
    for i, row in enumerate(np.eye(2, dtype=np.float32)):
        np.testing.assert_allclose(together[i], np.asarray(network((photo, row[None])))[0], atol=1e-2)
    assert np.abs(together[0] - together[1]).max() > 1


def test_a_predictor_starts_as_the_mean_of_the_known_styles():
    statistics, vectors = RNG.normal(size=(6, 20)), RNG.normal(size=(2, 11)).astype(np.float32)
    predictor = StylePredictor(11, 20, components=4, hidden=5)
    predictor.adapt(statistics, vectors)
    np.testing.assert_allclose(predictor(statistics), np.tile(vectors.mean(0), (6, 1)), rtol=1e-5)


def test_a_predictor_comes_back_from_its_arrays():
    statistics = RNG.normal(size=(6, 20)).astype(np.float32)
    predictor = StylePredictor(11, 20, components=4, hidden=5)
    predictor.adapt(statistics, np.zeros((1, 11)))
    for variable in predictor.trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))
    np.testing.assert_array_equal(restored(predictor.arrays())(statistics), predictor(statistics))


@pytest.mark.parametrize("paintings", [2, 5, 40])
def test_components_have_about_unit_variance_however_few_paintings_there_are(paintings):
    statistics = RNG.normal(size=(paintings, 30)) * np.geomspace(1, 1e4, 30) + 100
    components = (statistics - statistics.mean(0)) @ principal_components(statistics, 8)
    assert components.shape == (paintings, 8)
    assert 0.9 < components[:, 0].var() <= 1.0
    assert (components.var(axis=0) <= 1.0 + 1e-5).all()


def test_statistics_are_of_one_length_whatever_the_painting_s_size():
    found = statistics_of([PAINTING, PAINTING[:40]])
    assert found.shape == (2, 2 * (3 + 64 + 128 + 256 + 512 + 512))
    assert np.isfinite(found).all()


def test_learning_brings_a_style_nearer_to_its_painting_and_leaves_the_network_as_it_was(network):
    before = [np.array(variable) for variable in network.variables]
    longer = LearnParameters(
        max_seconds=3600, max_steps=40, size=64, style_size=80, crops=1, content_error=2.0, features="compact"
    )
    first, *_, last = itertools.islice(learn(network, draft_of(network), PAINTING, [PHOTOGRAPH], longer), 1, None)
    assert last.style_error < 0.8 * first.style_error
    for variable, was in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, was)


@pytest.mark.usefixtures("eagerly")
def test_learning_begins_with_the_draft_and_ends_after_its_steps(network):
    draft = draft_of(network)
    told = list(learn(network, draft, PAINTING, [PHOTOGRAPH], FEW))
    assert [style.step for style in told] == [0, 1, 2, 3]
    np.testing.assert_array_equal(told[0].vector, draft)
    assert told[-1].done == 1.0 and told[-1].stopped == ""
    assert np.isfinite([told[-1].content_error, told[-1].style_error]).all()


@pytest.mark.usefixtures("eagerly")
def test_learning_ends_when_its_time_is_over(network):
    seconds = itertools.count(step=10)
    limited = LearnParameters(max_seconds=25, size=64, style_size=80, crops=1, features="compact")
    told = list(learn(network, draft_of(network), PAINTING, [PHOTOGRAPH], limited, lambda: float(next(seconds))))
    assert (told[-1].done, told[-1].stopped) == (1.0, "max_seconds")
    assert len(told) == 3


@pytest.mark.usefixtures("eagerly")
def test_a_seed_repeats_what_is_learned(network):
    runs = [list(learn(network, draft_of(network), PAINTING, [PHOTOGRAPH], FEW))[-1] for _ in range(2)]
    np.testing.assert_array_equal(runs[0].vector, runs[1].vector)


def test_a_draft_that_is_none_and_no_photographs_are_refused(network):
    draft = draft_of(network)
    for wrong in (draft[:-1], np.where(np.arange(len(draft)) == 3, np.nan, draft)):
        with pytest.raises(InputError, match=f"accepted: {network.length} finite"):
            next(learn(network, wrong, PAINTING, [PHOTOGRAPH], FEW))
    with pytest.raises(InputError, match="at least one"):
        next(learn(network, draft, PAINTING, [], FEW))


@pytest.mark.parametrize(
    "wrong", [{"max_seconds": 0}, {"max_steps": 0}, {"size": 32}, {"size": 100}, {"content_error": float("nan")}]
)
def test_learning_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="accepted"):
        LearnParameters(**wrong)


def test_a_second_painting_is_learned_without_tracing_anything_again(network):
    traced = []
    counting = lambda *args: traced.append(1) or paint(*args)  # noqa: E731
    paint, network.paint = network.paint, counting
    try:
        for painting in (PAINTING, PAINTING[::-1, :40]):
            assert list(learn(network, draft_of(network), painting, [PHOTOGRAPH], replace(FEW, crops=1)))[-1].step == 3
    finally:
        del network.paint
    assert len(traced) <= 1
