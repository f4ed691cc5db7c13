"""Picture files through the stylist with a network of three styles, without a server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from imaging import images
from imaging.colors import mix
from imaging.provenance import parse
from reverie.errors import InputError, Unavailable
from serving.parameters import markdown_table
from serving.style.choice import StyleInput
from serving.style.margin import MARGIN
from serving.style.parameters import StylizeParameters
from serving.style.stylist import PixelBudget, Stylist
from serving.style.table import WEIGHTS
from tests.conftest import PROJECT
from tests.serving.style_graph import stylist_of, tint, tint_as_version, with_mirrored_margin, write_version


@pytest.fixture(scope="module")
def stylist(tmp_path_factory) -> Stylist:
    return stylist_of(tint_as_version, write_version(tmp_path_factory.mktemp("style") / "1"))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return images.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), 60, 80)


def restyled(stylist: Stylist, data: bytes, **parameters) -> Image.Image:
    return Image.open(io.BytesIO(stylist.stylize(data, StylizeParameters(**parameters))))


def painted(picture: np.ndarray, weights: list[float]) -> np.ndarray:
    return with_mirrored_margin(tint, picture, np.array(weights))


def encoded(image: Image.Image, format="png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_a_style_is_taken_by_name_and_the_first_by_default(stylist, picture):
    data = images.encode(picture)
    for name, weights in (("", [1, 0, 0]), ("red", [1, 0, 0]), ("blue", [0, 0, 1])):
        np.testing.assert_array_equal(restyled(stylist, data, style=name), painted(picture, weights))


def test_a_blend_depends_only_on_the_proportions_of_its_weights(stylist, picture):
    data, half = images.encode(picture), painted(picture, [0.5, 0, 0.5])
    for weights in ({"red": 0.5, "blue": 0.5}, {"red": 3, "green": 0, "blue": 3}, {"red": 1e308, "blue": 1e308}):
        np.testing.assert_array_equal(restyled(stylist, data, styles=weights), half)


def test_strength_goes_from_the_photograph_to_the_style(picture):
    stylized = tint(picture, np.array([0, 1, 0]))
    np.testing.assert_array_equal(mix(picture, stylized, 0, False), picture)
    np.testing.assert_array_equal(mix(picture, stylized, 1, False), stylized)
    expected = picture + 0.3 * (stylized.astype(float) - picture)
    assert np.abs(mix(picture, stylized, 0.3, False) - expected).max() <= 1


def test_preserved_colors_are_the_photograph_s_and_the_lightness_the_painting_s():
    # Muted colors, so that nothing is clipped.
    photo = images.resize(np.random.default_rng(1).integers(90, 166, (5, 5, 3), np.uint8), 40, 40)
    painting = np.roll(photo, 7, axis=1)
    y, cb, cr = Image.fromarray(mix(photo, painting, 1, True)).convert("YCbCr").split()
    _, photo_cb, photo_cr = Image.fromarray(photo).convert("YCbCr").split()
    pairs = ((y, Image.fromarray(painting).convert("YCbCr").getchannel("Y")), (cb, photo_cb), (cr, photo_cr))
    for found, expected in pairs:
        assert np.abs(np.asarray(found, int) - np.asarray(expected)).max() <= 2


def test_the_result_has_the_photograph_s_format_unless_another_is_asked_for(stylist, picture):
    for own in images.FORMATS:
        assert restyled(stylist, images.encode(picture, own)).format == own.upper()
        for other in images.FORMATS:
            assert restyled(stylist, images.encode(picture, own), format=other).format == other.upper()


def test_transparency_is_kept_where_the_format_has_it_and_becomes_white_elsewhere(stylist, picture):
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, 40:] = 255
    data, stylized = images.encode(picture, alpha=alpha), painted(picture, [1, 0, 0])
    png = np.asarray(restyled(stylist, data))
    np.testing.assert_array_equal(png, np.dstack([stylized, alpha]))
    np.testing.assert_array_equal(np.asarray(restyled(stylist, data, format="webp"))[..., 3], alpha)
    jpeg = np.asarray(restyled(stylist, data, format="jpeg", quality=100))
    assert jpeg.shape[2] == 3
    assert jpeg[:, :32].min() > 250  # Blocks at the edge hold both sides.


def test_a_large_photograph_is_shrunk_to_size_and_a_small_one_is_not_enlarged(stylist, picture):
    data = images.encode(picture)
    assert restyled(stylist, data, size=40).size == (40, 30)
    assert restyled(stylist, data, size=8192).size == (80, 60)


def test_a_sideways_jpeg_comes_out_upright_and_without_its_other_exif(stylist):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where it was taken"
    result = restyled(stylist, encoded(Image.new("RGB", (80, 40), "gold"), "jpeg", exif=exif))
    assert result.size == (40, 80)
    assert not result.getexif()


def test_a_result_says_how_it_was_made_unless_asked_not_to(tmp_path, picture):
    folders = [write_version(tmp_path / number) for number in ("4", "5")]
    for folder in folders:
        (folder / "manifest.json").write_text(folder.name)
    canary = stylist_of(tint_as_version, *folders)
    data = images.encode(picture)
    asked = {"styles": {"red": 2, "green": 0, "blue": 1}, "strength": 0.5, "format": "jpeg"}
    said = parse(restyled(canary, data, **asked).info["xmp"])
    assert (said.model, said.version, said.style) == ("style", "5", "red=0.667, blue=0.333")
    assert said.manifest_sha256 == hashlib.sha256(b"5").hexdigest()
    assert said.parameters == StylizeParameters(**asked).model_dump()
    assert "xmp" not in restyled(canary, data, provenance=False).info


def test_tiles_say_the_version_that_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.style.stylist.UNTILED_SIDE", 50)
    stylist = stylist_of(tint_as_version, write_version(tmp_path / "6"))
    assert parse(restyled(stylist, images.encode(np.zeros((60, 60, 3), np.uint8))).info["xmp"]).version == "6"


def test_where_a_photograph_was_taken_is_in_none_of_the_result_s_metadata(stylist):
    place = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
      xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="47,22.4N"/></rdf:RDF>"""
    for format in images.FORMATS:
        photo = images.encode(np.zeros((20, 20, 3), np.uint8), format, packet=place)
        for provenance in (True, False):
            result = stylist.stylize(photo, StylizeParameters(provenance=provenance))
            assert b"47,22" not in result
            assert b"GPS" not in result


def test_detail_restyles_a_larger_picture_and_brings_it_back(tmp_path, picture):
    sizes: list[tuple[int, int]] = []

    def halving(photo: np.ndarray, *_: object) -> np.ndarray:
        sizes.append((photo.shape[0] - 2 * MARGIN, photo.shape[1] - 2 * MARGIN))
        return photo // 2

    stylist, data = stylist_of(halving, write_version(tmp_path / "1")), images.encode(picture)
    for detail, expected in ((1, (60, 80)), (1.5, (90, 120)), (2, (120, 160)), (1.999, (120, 160))):
        result = restyled(stylist, data, detail=detail, style="red")
        assert sizes.pop() == expected
        assert result.size == (80, 60)
        assert np.abs(np.asarray(result, int) - picture // 2).mean() < 2


def test_detail_that_makes_a_picture_large_is_a_large_picture_s_work(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.style.stylist.UNTILED_SIDE", 150)
    stylist, data = (
        stylist_of(tint_as_version, write_version(tmp_path / "1")),
        images.encode(np.zeros((50, 100, 3), np.uint8)),
    )
    tiled = []
    monkeypatch.setattr(
        "serving.style.stylist.restyle_in_tiles", lambda model, photo, w, **_: tiled.append(photo.shape) or photo
    )
    assert restyled(stylist, data).size == restyled(stylist, data, detail=2).size == (100, 50)
    assert tiled == [(100, 200, 3)]


def test_detail_beyond_the_largest_picture_is_refused_with_what_is_accepted(stylist):
    data = images.encode(np.zeros((16, 5000, 3), np.uint8))
    with pytest.raises(InputError, match="detail: 2 times 5000x16 pixels; accepted: sides of at most 8192"):
        stylist.stylize(data, StylizeParameters(detail=2, size=8192))


def test_a_picture_that_size_would_make_too_narrow_is_refused_with_the_reason(stylist):
    thin = images.encode(np.zeros((20, 800, 3), np.uint8))
    with pytest.raises(InputError, match="800x20 pixels become 100x2 at size 100"):
        stylist.stylize(thin, StylizeParameters(size=100))


@pytest.mark.parametrize(("name", "parameters"), [("style", {"style": "pink"}), ("styles", {"styles": {"pink": 1}})])
def test_an_unknown_style_is_answered_with_those_there_are(stylist, picture, name, parameters):
    with pytest.raises(InputError, match=f"{name}: 'pink' is unknown; accepted: red, green, blue"):
        stylist.stylize(images.encode(picture), StylizeParameters(**parameters))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"styles": {"red": -1}}, "'red' has weight -1.0; weights should be finite and at least 0"),
        ({"styles": {"red": float("nan")}}, "'red' has weight nan"),
        ({"styles": '{"red": Infinity}'}, "'red' has weight inf"),
        ({"styles": {"red": 0, "blue": 0}}, "all weights are 0"),
        ({"styles": "red"}, "not JSON"),
        ({"styles": "[" * 100_000}, "not JSON"),
        ({"styles": "[1]"}, "valid dictionary"),
        ({"styles": '{"red": "much"}'}, "valid number"),
        ({"style": "red", "styles": {"blue": 1}}, "give one of the two"),
        ({"strength": 1.1}, "less than or equal to 1"),
        ({"strength": float("nan")}, "finite"),
        ({"size": 8193}, "less than or equal to 8192"),
        ({"size": 15}, "greater than or equal to 16"),
        ({"detail": 0.9}, "greater than or equal to 1"),
        ({"detail": float("nan")}, "finite"),
        ({"detail": 2.1}, "less than or equal to 2"),
        ({"quality": 0}, "greater than or equal to 1"),
        ({"format": "gif"}, "'same', 'png', 'jpeg' or 'webp'"),
        ({"strenght": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_accepted(wrong, message):
    with pytest.raises(ValidationError, match=message):
        StylizeParameters(**wrong)


def test_the_documentation_is_the_table():
    assert markdown_table(StylizeParameters) in (PROJECT / "docs" / "stylize.md").read_text()


def test_pictures_wait_until_there_is_room_for_their_pixels():
    budget, entered = PixelBudget(100), threading.Event()

    def another() -> None:
        with budget.take(50):
            entered.set()

    waiting = threading.Thread(target=another, daemon=True)
    with budget.take(1000):  # More than there is: all of it.
        waiting.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    waiting.join()
    assert budget.taken == 0


LARGE = images.encode(np.zeros((200, 100, 3), np.uint8))
"""Where `LARGE_PIXELS` is 10,000."""


@contextlib.contextmanager
def restyling(stylist: Stylist, data: bytes, client: str = "") -> Iterator[threading.Event]:
    """In a thread of its own while the block runs; the event is set when the picture waits for another."""
    waits = threading.Event()

    def work() -> None:
        stylist.stylize(data, StylizeParameters(), client, check=waits.set)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield waits
    done.result()


def test_a_third_large_picture_is_refused_while_two_are_in_work_and_a_small_one_is_not(tmp_path, picture, monkeypatch):
    tiling, may_end = threading.Event(), threading.Event()

    def slow(model, photo: np.ndarray, weights: np.ndarray, **_: object) -> np.ndarray:
        tiling.set()
        assert may_end.wait(10)
        return photo

    monkeypatch.setattr("serving.style.stylist.restyle_in_tiles", slow)
    monkeypatch.setattr("serving.style.stylist.LARGE_PIXELS", 10_000)
    monkeypatch.setattr("serving.style.stylist.UNTILED_SIDE", 150)
    stylist = stylist_of(tint_as_version, write_version(tmp_path / "1"))
    with restyling(stylist, LARGE):
        assert tiling.wait(10)
        # Who has another name has places of its own.
        with restyling(stylist, LARGE) as second_waits, restyling(stylist, LARGE, "another") as another_waits:
            try:
                assert second_waits.wait(10) and another_waits.wait(10)
                with pytest.raises(Unavailable, match="2 large pictures of callers without a name"):
                    restyled(stylist, LARGE)
                assert restyled(stylist, images.encode(picture)).size == (80, 60)
            finally:
                may_end.set()
    assert restyled(stylist, LARGE).size == (100, 200)


@pytest.mark.parametrize(
    ("height", "width", "by", "alone"),
    [
        (100, 100, "network", False),
        (200, 200, "network", True),
        (201, 200, "tiles", True),
        (201, 20, "tiles", True),
    ],
)
def test_a_large_picture_is_restyled_in_one_piece_and_alone_and_one_with_a_long_side_in_tiles(
    tmp_path, monkeypatch, height, width, by, alone
):
    monkeypatch.setattr("serving.style.stylist.LARGE_PIXELS", 10_000)
    monkeypatch.setattr("serving.style.stylist.UNTILED_SIDE", 200)
    made: list[tuple[str, tuple[int, ...]]] = []
    begun, may_end = threading.Semaphore(0), threading.Event()

    def work(by: str, photo: np.ndarray) -> np.ndarray:
        made.append((by, photo.shape[:2]))
        begun.release()
        assert may_end.wait(10)
        return photo

    monkeypatch.setattr(
        "serving.style.stylist.restyle_in_tiles", lambda model, photo, weights, **_: work("tiles", photo)
    )
    stylist = stylist_of(lambda photo, *_: work("network", photo), write_version(tmp_path / "1"))
    data = images.encode(np.zeros((height, width, 3), np.uint8))
    try:
        with restyling(stylist, data):
            assert begun.acquire(timeout=10)  # Else the second might be let in first.
            with restyling(stylist, data) as second_waits:
                assert second_waits.wait(10) if alone else begun.acquire(timeout=10)
                assert len(made) == (1 if alone else 2)
                may_end.set()
    finally:
        may_end.set()
    margin = 2 * MARGIN if by == "network" else 0
    assert made == [(by, (height + margin, width + margin))] * 2


def test_one_picture_is_decoded_and_encoded_while_another_is_in_the_network(tmp_path, picture):
    in_network, may_leave = threading.Event(), threading.Event()

    def slow_for_red(photo: np.ndarray, style: StyleInput, *_: object) -> np.ndarray:
        if style[WEIGHTS][0, 0] == 1:
            in_network.set()
            assert may_leave.wait(10)
        return tint_as_version(photo, style)

    stylist, results = stylist_of(slow_for_red, write_version(tmp_path / "1")), []
    data = images.encode(picture)
    first = threading.Thread(target=lambda: results.append(restyled(stylist, data, style="red")), daemon=True)
    first.start()
    assert in_network.wait(10)
    assert restyled(stylist, data, style="blue").size == (80, 60)
    assert not results
    may_leave.set()
    first.join()
    assert len(results) == 1
