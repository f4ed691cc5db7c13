import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from synthesis import images


def encoded(image: Image.Image, format="png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@given(st.integers(16, 60), st.integers(16, 60))
def test_png_keeps_every_pixel(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(images.encode(image)), image)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    picture = Image.new("L", (20, 30), 200).convert(mode) if mode != "I;16" else Image.new(mode, (20, 30), 200)
    data = encoded(picture, "jpeg" if mode == "CMYK" else "png")
    assert images.decode(data).shape == (30, 20, 3)


def test_transparent_pixels_become_white():
    assert images.decode(encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0)))).min() == 255


def test_a_rotated_photograph_comes_out_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode(encoded(Image.new("RGB", (40, 20)), "jpeg", exif=exif)).shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that are not an image"),
        (b"GIF89a nonsense", "not an image; accepted: png, jpeg, webp"),
        (encoded(Image.new("RGB", (1, 1))), "1x1 pixels; accepted: sides of 16 to 8192"),
        (encoded(Image.new("1", (20000, 20000))), "20000x20000 pixels; accepted"),
        (encoded(Image.new("RGB", (64, 64)))[:60], "cannot be decoded"),
        (encoded(Image.effect_noise((64, 64), 50), "jpeg")[:600], "cannot be decoded"),
    ],
)
def test_what_is_no_acceptable_image_is_refused_with_what_is(data, message):
    with pytest.raises(images.ImageError, match=message):
        images.decode(data)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBP"]),
)
def test_arbitrary_bytes_give_an_image_or_an_image_error(data, magic):
    with contextlib.suppress(images.ImageError):
        assert images.decode(magic + data).ndim == 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(images.ImageError, match=r"absent\.png: there is no such file"):
        images.read(tmp_path / "absent.png")


def test_shrinking_keeps_the_aspect_and_never_enlarges():
    image = np.zeros((100, 200, 3), np.uint8)
    assert images.fit_within(image, 50).shape == (25, 50, 3)
    assert images.fit_within(image, 500).shape == image.shape


@pytest.mark.parametrize("ending", images.FILMS)
def test_a_film_has_its_frames(tmp_path, ending):
    frames = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(4)]
    images.write_film(frames, tmp_path / f"film{ending}")
    with Image.open(tmp_path / f"film{ending}") as film:
        assert (film.n_frames, film.size) == (4, (30, 20))


def test_a_film_of_an_unknown_kind_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(images.ImageError, match=r"film\.mp4: .* accepted: 1 or more, as \.webp, \.gif, \.png"):
        images.write_film([np.zeros((20, 30, 3), np.uint8)], tmp_path / "film.mp4")


def test_resampling_floats_neither_rounds_nor_clips():
    pixels = np.linspace(-50.0, 300.0, 20 * 30 * 3).reshape(20, 30, 3)
    np.testing.assert_array_equal(images.resize_float(pixels, 20, 30), pixels)
    larger = images.resize_float(pixels, 40, 60)
    assert larger.min() < 0
    assert larger.max() > 255
