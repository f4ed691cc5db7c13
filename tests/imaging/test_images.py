import contextlib
import io
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from imaging import images
from tests.bombs import png_claiming

HEADER_0x64 = b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
    "0000000d49484452" + "00000000" + "00000040" + "0802000000" + "bb6fd0c1"
)


def encoded(image: Image.Image, format="png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@given(st.integers(16, 60), st.integers(16, 60))
def test_png_keeps_every_pixel(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(images.encode(image)), image)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_color_mode_becomes_rgb(mode):
    picture = Image.new("L", (20, 30), 200).convert(mode) if mode != "I;16" else Image.new(mode, (20, 30), 200)
    data = encoded(picture, "jpeg" if mode == "CMYK" else "png")
    assert images.decode(data).shape == (30, 20, 3)


def test_sixteen_bit_grays_keep_their_range():
    grays = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    decoded = images.decode(encoded(Image.fromarray(grays)))
    np.testing.assert_array_equal(decoded, np.repeat((grays >> 8)[..., None], 3, axis=2))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 30), color) for color in ("red", "blue")]
    for format in ("png", "webp"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert images.decode(data)[0, 0].tolist() == [255, 0, 0]


def test_a_file_of_two_jpegs_is_a_jpeg():
    pictures = [Image.new("RGB", (20, 30), color) for color in ("red", "blue")]
    picture = images.decode_picture(encoded(pictures[0], "mpo", save_all=True, append_images=pictures[1:]))
    assert picture.format == "jpeg"
    assert picture.pixels[0, 0, 0] > 250


def test_transparency_and_colors_under_it_are_kept_apart():
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    picture = images.decode_picture(encoded(Image.fromarray(rgba)))
    assert picture.alpha is not None
    np.testing.assert_array_equal(np.dstack([picture.pixels, picture.alpha]), rgba)
    assert images.decode_picture(encoded(Image.new("RGBA", (20, 30), "red"))).alpha is None


def png_with_transparent_color(values: np.ndarray, bits: int, transparent: tuple[int, ...]) -> bytes:
    """A PNG of unsigned `values` (height, width, 1 or 3) with so many bits, of which one color is transparent (tRNS)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((values[..., None] >> shifts & 1).reshape(height, -1).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 3: 2}[channels], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    trns = struct.pack(f">{channels}H", *transparent)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", trns), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("bits", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_the_transparent_color_of_a_png_is_transparent_whatever_its_bits(bits, channels):
    values = np.random.default_rng(bits).integers(0, 2**bits, (20, 30, channels))
    values[3:7, 4:9] = chosen = values[0, 0].copy()
    picture = images.decode_picture(png_with_transparent_color(values, bits, tuple(chosen.tolist())))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha == 0, (values == chosen).all(axis=2))
    np.testing.assert_array_equal(
        picture.pixels[..., :channels], values * 255 // (2**bits - 1) if bits < 16 else values >> 8
    )


def test_a_16_bit_gray_that_is_transparent_is_not_mistaken_for_its_neighbors():
    values = np.full((20, 30, 1), 0x1234)
    values[5:] = 0x1235
    picture = images.decode_picture(png_with_transparent_color(values, 16, (0x1235,)), longest=27)
    assert picture.alpha is not None
    assert picture.alpha[0].min() == 255
    assert picture.alpha[-1].max() == 0


def test_a_film_keeps_its_color_space_where_its_format_has_one(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for ending, kept in ((".webp", profile), (".png", profile), (".gif", None)):
        path = tmp_path / f"film{ending}"
        images.write_film([np.zeros((20, 30, 3), np.uint8)] * 2, path, icc_profile=profile)
        with Image.open(path) as film:
            assert film.info.get("icc_profile") == kept


def test_the_color_space_of_rgb_files_is_passed_on():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = images.decode_picture(encoded(Image.new("RGB", (20, 30)), "jpeg", icc_profile=profile))
    assert Image.open(io.BytesIO(images.encode(picture.pixels, icc_profile=picture.icc_profile))).info["icc_profile"]
    assert images.decode_picture(encoded(Image.new("CMYK", (20, 30)), "jpeg", icc_profile=profile)).icc_profile is None


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_shrinking_while_decoding_looks_like_shrinking_afterwards(format):
    photo = images.resize(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8), 800, 901)
    data = images.encode(photo, format, quality=95)
    early, late = images.decode_picture(data, longest=200).pixels, images.fit_within(images.decode(data), 200)
    assert early.shape == late.shape == (178, 200, 3)
    assert np.abs(early.astype(int) - late).max() <= 8


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
        (png_claiming(20000, 20000), "20000x20000 pixels; accepted"),
        (HEADER_0x64, "33 bytes that are not an image"),
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


def test_a_file_that_is_too_long_is_refused_unread(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    with pytest.raises(images.ImageError, match="1001 bytes; accepted: files of at most 1000"):
        images.decode(b"x" * 1001)


def test_a_bomb_is_refused_from_its_header_and_takes_no_memory():
    bomb = png_claiming(30000, 30000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(images.ImageError, match="30000x30000 pixels"):
        images.decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB; its pixels are 900 MB.


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(images.ImageError, match=r"absent\.png: there is no such file"):
        images.read(tmp_path / "absent.png")


def test_shrinking_keeps_the_aspect_and_never_enlarges():
    image = np.zeros((100, 200, 3), np.uint8)
    assert images.fit_within(image, 50).shape == (25, 50, 3)
    assert images.fit_within(image, 500).shape == image.shape


@given(st.integers(16, 8192), st.integers(16, 8192), st.integers(16, 8192))
def test_a_shape_is_shrunk_to_what_networks_take_or_refused_with_the_size_that_it_needs(height, width, longest):
    try:
        small = images.shrunk_size(height, width, longest)
    except images.ImageError as refused:
        least = int(str(refused).split("a size of at least ")[1].split(",")[0])
        assert min(images.shrunk_size(height, width, least)) == images.MIN_SIDE
    else:
        assert min(small) >= images.MIN_SIDE
        assert max(small) == min(longest, max(height, width))


def test_no_size_is_recommended_that_is_not_accepted():
    with pytest.raises(images.ImageError, match=r"become 2048x4 at size 2048; .* then; give a picture that is less"):
        images.shrunk_size(16, 8192, 2048, largest=2048)


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
