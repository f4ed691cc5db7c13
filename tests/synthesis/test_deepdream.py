import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.reference.book import BookDream
from imaging import images
from reverie.errors import Cancelled, InputError
from synthesis import compact, deepdream, features
from synthesis.ascent import MARGIN, STRIDE, ascent, tile_windows
from synthesis.deepdream import DeepDreamParameters, dream
from synthesis.progress import Progress
from tests.conftest import PICTURES

LAYERS = {"block4_conv1": 1.0, "block5_conv1": 2.0}
PARAMETERS = DeepDreamParameters(
    recipe="book", layers=LAYERS, features="compact", iterations=3, num_octave=2, max_loss=0
)


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    return images.resize(coarse, 120, 132)


def book_dream(image: np.ndarray, parameters: DeepDreamParameters, model=None, losses=None) -> np.ndarray:
    """The plain transcription of listings 12-11 to 12-15, on the compact network unless another is given."""
    book = BookDream(model or compact.build(), dict(parameters.layers))
    p = parameters
    picture = book.dream(image, p.step, p.num_octave, p.octave_scale, p.iterations, p.max_loss or None, losses)
    return images.to_uint8((picture[0] + 1) * 127.5)


@pytest.mark.slow
def test_the_picture_is_the_book_s_within_rounding(image):
    # A short step: a long one amplifies the rounding of the two units in every step until single pixels part.
    gentle = PARAMETERS.model_copy(update={"step": 2.0})
    ours, theirs = (f(image, gentle).astype(int) for f in (dream, book_dream))
    assert np.abs(ours - image).mean() > 0.5
    assert np.quantile(np.abs(ours - theirs), 0.999) <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_step_an_octave_through_inception_v3_gives_the_book_s_picture(data, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    features.network.cache_clear()
    photo = images.fit_within(images.read(data / "chicago.jpg"), 260)
    model = keras.applications.InceptionV3(weights=None, include_top=False)
    model.load_weights(features.weights_path("inception_v3"))
    layers = {"mixed4": 1.0, "mixed5": 1.5, "mixed6": 2.0, "mixed7": 2.5}
    parameters = DeepDreamParameters(recipe="book", layers=layers, features="inception_v3", iterations=1, num_octave=2)
    records: list[Progress] = []
    losses: list[float] = []
    theirs = book_dream(photo, parameters, model, losses).astype(int)
    ours = dream(photo, parameters.model_copy(update={"layers": {}}), records.append).astype(int)
    # One step an octave: further ones amplify the rounding of the two units, as ascent does with any rounding.
    np.testing.assert_allclose([r.loss for r in records], losses, rtol=1e-2)
    folded = features.load("inception_v3", list(layers), folded=True)(photo[None].astype(np.float32))
    plain = features.load("inception_v3", list(layers))(photo[None].astype(np.float32))
    for fast, exact in zip(folded, plain, strict=True):
        np.testing.assert_allclose(fast, exact, atol=1e-3)
    assert np.abs(ours - theirs).mean() < 0.1 * np.abs(theirs - photo).mean()


@pytest.mark.slow
def test_bfloat16_dreams_nearly_the_same_picture(image):
    gentle = PARAMETERS.model_copy(update={"step": 2.0})
    exact, fast = (dream(image, gentle.model_copy(update={"precision": p})) for p in ("float32", "bfloat16"))
    change = np.abs(exact.astype(int) - image).mean()
    difference = np.abs(exact.astype(int) - fast).mean()
    assert 0 < difference < 0.5 * change


@pytest.mark.slow
def test_tiles_give_the_gradient_of_the_whole_picture(image):
    wide = images.resize(image, 330, 300)
    pixels = tf.constant(wide[None], tf.float32)
    compiled = ascent("compact", ("block3_conv1",))
    weights = tf.constant([1.0])
    whole = compiled.gradient(pixels, weights, ())[2].numpy()[0]
    for tile in (80, 100):
        tiled = compiled.tiled_gradient(pixels, weights, (), tile, (33, 61))[2].numpy()[0]
        # Edges too: not one pixel is left out, and no seam runs between the tiles.
        assert np.abs(whole - tiled).max() < 0.2 * np.abs(whole).max()
        assert np.linalg.norm(whole - tiled) < 0.05 * np.linalg.norm(whole)


@given(st.integers(1, 900), st.integers(16, 300), st.integers(0, 299))
def test_tiles_cover_every_pixel_once_and_see_enough_on_the_network_s_grid(size, tile, shift):
    windows = tile_windows(size, tile, shift)
    assert [i for _, own in windows for i in own] == list(range(size))
    for seen, own in windows:
        assert seen.start % STRIDE == 0
        assert seen.start == 0 or seen.start <= own.start - MARGIN
        assert seen.stop == size or seen.stop >= own.stop + MARGIN
    assert len({len(seen) for seen, _ in windows}) <= 2  # kernels are prepared for each size


@pytest.mark.slow
def test_jitter_changes_the_dream_and_its_seed_decides_how(image):
    first, again, other = (dream(image, PARAMETERS.model_copy(update={"jitter": 16, "seed": s})) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != dream(image, PARAMETERS)).any()


@pytest.mark.slow
def test_a_single_channel_is_the_one_that_grows(image):
    def response(picture, channel):
        (maps,) = features.load("compact", ["block4_conv1"])(picture[None].astype(np.float32))
        return float(np.square(maps[0, 2:-2, 2:-2, channel]).mean())

    dreamed = dream(image, PARAMETERS.model_copy(update={"layers": {"block4_conv1:5": 1.0}}))
    assert response(dreamed, 5) > 1.5 * response(image, 5)


@pytest.mark.slow
def test_a_guide_decides_what_is_dreamed(image):
    guides = [images.resize(np.random.default_rng(s).integers(0, 256, (s, s, 3), np.uint8), 120, 120) for s in (4, 40)]
    first, second = (dream(image, PARAMETERS, guide=guide) for guide in guides)
    assert np.abs(first.astype(int) - second).mean() > 1


@pytest.mark.slow
def test_a_smoothed_gradient_makes_a_smoother_dream(image):
    def grain(picture):
        change = picture.astype(float) - image
        return np.abs(np.diff(change, axis=0)).mean() / np.abs(change).mean()

    assert grain(dream(image, PARAMETERS.model_copy(update={"smooth": 2.0}))) < 0.8 * grain(dream(image, PARAMETERS))


@pytest.mark.slow
def test_strength_goes_from_the_photograph_to_the_dream(image):
    none, half, full = (dream(image, PARAMETERS.model_copy(update={"strength": s})) for s in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(none, image)
    assert 0 < np.abs(half.astype(int) - image).mean() < np.abs(full.astype(int) - image).mean()


def test_preserved_colors_leave_the_chroma(image):
    dreamed = dream(image, PARAMETERS.model_copy(update={"preserve_colors": True, "step": 2.0}))
    chroma = [np.asarray(Image.fromarray(x).convert("YCbCr"))[..., 1:].astype(int) for x in (image, dreamed)]
    assert (dreamed != image).any()
    assert np.quantile(np.abs(chroma[0] - chroma[1]), 0.9) <= 1


def test_a_zoom_sequence_reports_every_frame(image):
    records: list[Progress] = []
    short = {"frames": 3, "zoom": 1.1, "iterations": 1, "num_octave": 1}
    last = dream(image, PARAMETERS.model_copy(update=short), records.append)
    frames = [r.image for r in records if r.frame]
    assert [r.step for r in records if not r.frame] == [1, 2, 3]
    assert [r.frame for r in records if r.frame] == [1, 2, 3]
    assert all(frame is not None and frame.shape == image.shape for frame in frames)
    np.testing.assert_array_equal(last, frames[-1])


def test_zooming_keeps_the_middle_and_the_size():
    picture = np.zeros((50, 60, 3), np.uint8)
    picture[20:30, 25:35] = 255
    closer = deepdream.zoomed(picture, 2.0)
    assert closer.shape == picture.shape
    assert 3.5 < (closer > 127).sum() / (picture > 127).sum() < 4.5


def test_time_that_is_up_returns_the_picture_so_far_marked_so(image):
    records: list[Progress] = []
    out = dream(image, PARAMETERS.model_copy(update={"max_seconds": 1e-3, "iterations": 1000}), records.append)
    assert [r.step for r in records] == [1]
    assert records[0].stopped == "max_seconds"
    assert out.shape == image.shape


def test_the_parts_add_up_to_the_loss(image):
    records: list[Progress] = []
    dream(image, PARAMETERS, records.append)
    assert all(sum(r.parts.values()) == pytest.approx(r.loss, rel=1e-5) for r in records)
    assert set(records[0].parts) == set(LAYERS)


def test_octaves_grow_to_the_full_size_as_in_the_book():
    assert deepdream.octave_shapes(900, 600, 3, 1.4) == [(459, 306), (642, 428), (900, 600)]


def test_every_step_is_reported_and_the_loss_grows(image):
    records = []
    out = dream(image, PARAMETERS, records.append)
    assert [r.step for r in records] == [1, 2, 3, 4, 5, 6]
    assert [r.stage for r in records] == [0, 0, 0, 1, 1, 1]
    assert records[2].loss > records[0].loss
    assert out.shape == image.shape


def test_an_octave_ends_above_the_maximal_loss(image):
    records = []
    dream(image, PARAMETERS.model_copy(update={"max_loss": 1e-6}), records.append)
    assert [r.step for r in records] == [1, 4]


def test_previews_come_at_the_steps_asked_for(image):
    records = []
    dream(image, PARAMETERS.model_copy(update={"preview_every": 2}), records.append)
    assert [r.step for r in records if r.image is not None] == [2, 4, 6]


def test_cancelling_stops_within_one_step(image):
    steps = []

    def cancel_at_second(progress):
        steps.append(progress.step)
        if progress.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        dream(image, PARAMETERS, cancel_at_second)
    assert steps == [1, 2]


@pytest.mark.slow
def test_the_same_request_gives_the_same_picture(image):
    np.testing.assert_array_equal(dream(image, PARAMETERS), dream(image, PARAMETERS))


def test_an_unknown_layer_is_answered_with_those_there_are(image):
    with pytest.raises(features.FeaturesError, match=r"'mixed99' is not in compact; accepted: .*block4_conv1"):
        dream(image, PARAMETERS.model_copy(update={"layers": {"mixed99": 1.0}}))


def test_an_unknown_extractor_is_answered_with_those_there_are(image):
    with pytest.raises(features.FeaturesError, match="'resnet' is unknown; accepted: vgg19, inception_v3, compact"):
        dream(image, PARAMETERS.model_copy(update={"features": "resnet"}))


def test_missing_weights_are_answered_with_how_to_get_them(image, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("REVERIE_WEIGHTS_DIR", raising=False)
    features.network.cache_clear()
    with pytest.raises(features.FeaturesError, match="run 'reverie weights inception_v3'"):
        dream(image, PARAMETERS.model_copy(update={"features": "inception_v3"}))


def test_an_image_too_small_for_its_octaves_is_refused(image):
    with pytest.raises(images.ImageError, match="smallest octave"):
        dream(image, PARAMETERS.model_copy(update={"num_octave": 5}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"block4_conv1:999": 1.0}}, "channel '999' of block4_conv1 in compact; accepted: 0 to 511"),
        ({"layers": {"block4_conv1:x": 1.0}}, "channel 'x' of block4_conv1"),
        ({"tile": 20}, "tile: 20; accepted by compact: 0, or 80 to 2048"),
    ],
)
def test_what_only_the_extractor_can_refuse_is_refused_with_what_it_accepts(image, changes, message):
    with pytest.raises(InputError, match=message):
        dream(image, PARAMETERS.model_copy(update=changes))


def test_a_guide_under_the_network_s_minimum_is_refused(image):
    with pytest.raises(images.ImageError, match="guide_image: 40x40 pixels; accepted: sides of at least 80"):
        dream(image, PARAMETERS, guide=image[:40, :40])


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": float("nan")},
        {"step": -1},
        {"iterations": 0},
        {"octave_scale": 1},
        {"layers": {"a": float("inf")}},
        {"layers": {"a": 1e9}},
        {"num_octave": -1},
        {"recipe": "cake"},
        {"max_loss": -1},
        {"size": 0},
        {"jitter": -1},
        {"tile": -5},
        {"smooth": float("nan")},
        {"strength": -0.1},
        {"frames": 0},
        {"zoom": 0.5},
        {"precision": "float8"},
        {"max_seconds": -1},
        {"seed": -1},
        {"preview_every": -1},
        {"x": 1},
    ],
)
def test_parameters_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeepDreamParameters(**wrong)


def test_the_recipe_book_has_the_book_s_settings_and_what_is_given_goes_before_it():
    book = {"step": 20.0, "num_octave": 3, "octave_scale": 1.4, "iterations": 30, "max_loss": 15.0}
    off = {"jitter": 0, "smooth": 0.0, "tile": 0, "strength": 1.0, "precision": "float32"}
    assert DeepDreamParameters(recipe="book").model_dump().items() >= (book | off).items()
    given = DeepDreamParameters(recipe="book", step=7, jitter=3)
    assert (given.step, given.jitter, given.iterations) == (7.0, 3, 30)
    assert DeepDreamParameters().recipe == DeepDreamParameters(recipe="forms").recipe == "forms"
    assert DeepDreamParameters(**given.model_dump()) == given


@pytest.mark.slow
def test_the_default_recipe_grows_forms_where_the_book_s_grows_grain():
    """Grain: how much of the change is from one pixel to the next."""
    photo = images.fit_within(images.read(PICTURES / "cat.jpg"), 240)

    def grain(parameters: DeepDreamParameters) -> float:
        change = dream(photo, parameters).astype(float) - photo
        return np.abs(np.diff(change, axis=0)).mean() / np.abs(change).mean()

    forms = DeepDreamParameters(features="compact")
    book = DeepDreamParameters(recipe="book", features="compact", num_octave=2)
    assert grain(forms) < 0.75 * grain(book)


@pytest.mark.parametrize(("side", "octaves"), [(60, 1), (80, 1), (111, 1), (112, 2), (157, 3), (220, 4), (4000, 4)])
def test_a_dream_takes_as_many_octaves_as_the_picture_has_room_for(side, octaves):
    assert deepdream.useful_octaves(side, 80, 1.4) == octaves


@pytest.mark.slow
def test_a_small_picture_can_be_dreamed_on_with_the_defaults(image):
    records: list[Progress] = []
    small = image[:80, :90]
    assert dream(small, DeepDreamParameters(features="compact", iterations=1), records.append).shape == small.shape
    assert [r.steps for r in records] == [1]


def test_layers_can_be_written_as_text():
    assert DeepDreamParameters(layers="mixed4=1, mixed5=1.5").layers == {"mixed4": 1.0, "mixed5": 1.5}
    with pytest.raises(ValueError, match="name=weight"):
        DeepDreamParameters(layers="mixed4")
