"""DeepDream and Gatys through the embedded Triton: what the stream carries, and how jobs share the instance."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from functools import partial

import grpc
import numpy as np
import pytest
from PIL import ImageCms
from reverie_client import Client, ReverieError

from imaging import images, provenance, xmp
from synthesis import compact

pytestmark = pytest.mark.tensorflow

DREAM = {"size": 160, "num_octave": 1, "iterations": 3, "max_loss": 0.0}
TRANSFER = {"size": 64, "steps": 3}
NARROW = images.encode(np.zeros((100, 3000, 3), np.uint8))
ENDLESS = {"size": 160, "num_octave": 1, "iterations": 1000, "max_loss": 0.0}


@pytest.fixture(scope="module")
def glass() -> bytes:
    return images.encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def test_every_record_has_the_parts_of_its_loss(client, photo, glass):
    steps = list(client.transfer(photo, glass, **TRANSFER))
    assert set(steps[0].loss_parts) == {"content", "style", "total_variation"}
    assert all(sum(s.loss_parts.values()) == pytest.approx(s.loss, rel=1e-4) for s in steps)


def test_previews_have_the_size_asked_for_and_the_result_its_own(client, photo):
    steps = list(client.dream(photo, preview_every=3, preview_size=50, **DREAM))
    assert [max(images.decode(s.image).shape) for s in steps if s.image] == [50, 160]


def test_a_raw_result_is_its_pixels(client, photo):
    last = list(client.dream(photo, format="raw", **DREAM))[-1]
    pixels = np.frombuffer(last.image, np.uint8).reshape(last.shape)
    encoded = images.decode(list(client.dream(photo, **DREAM))[-1].image)
    np.testing.assert_array_equal(pixels, encoded)  # and the same request gives the same picture


def test_previews_and_results_say_how_they_were_made_unless_asked_not_to(client, photo, glass):
    jobs = [(client.dream, (photo,), DREAM, "deepdream"), (client.transfer, (photo, glass), TRANSFER, "style_transfer")]
    for call, files, asked, model in jobs:
        pictures = [s.image for s in call(*files, preview_every=2, seed=2**60, **asked) if s.image]
        said = [provenance.parse(xmp.in_picture(picture)) for picture in pictures]
        assert len(said) == 2
        assert said[0] == said[1]
        assert (said[0].model, said[0].version, said[0].features, said[0].seed) == (model, "1", "compact", str(2**60))
        assert said[0].features_sha256 == hashlib.sha256(compact.WEIGHTS.read_bytes()).hexdigest()
        assert said[0].parameters.items() >= asked.items()
    *_, last = client.dream(photo, provenance=False, **DREAM)
    assert xmp.in_picture(last.image) == b""


@pytest.fixture(scope="module")
def cutout() -> images.Picture:
    """A picture with a color profile whose left half is transparent."""
    pixels = images.resize(np.random.default_rng(3).integers(0, 256, (5, 6, 3), np.uint8), 100, 120)
    alpha = np.where(np.arange(120) < 60, 0, 255).astype(np.uint8) * np.ones((100, 1), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return images.Picture(pixels, alpha, "png", profile)


@pytest.mark.parametrize("endpoint", ["dream", "transfer"])
def test_pictures_keep_the_transparency_and_the_color_profile_of_the_photograph(client, glass, cutout, endpoint):
    data = images.encode(cutout.pixels, alpha=cutout.alpha, icc_profile=cutout.icc_profile)
    call = partial(client.dream, data) if endpoint == "dream" else partial(client.transfer, data, glass)
    asked = (DREAM | {"size": 96}) if endpoint == "dream" else (TRANSFER | {"size": 96})
    preview, last = (images.decode_picture(s.image) for s in call(**asked, preview_every=3) if s.image)
    assert preview.icc_profile == last.icc_profile == cutout.icc_profile
    assert preview.alpha is None  # It is a JPEG, and so on white.
    assert preview.pixels[:, :40].min() > 240
    assert last.alpha is not None
    np.testing.assert_array_equal(last.alpha, cutout.alpha_at(80, 96))
    *_, jpeg = call(**asked, format="jpeg")
    *_, raw = call(**asked, format="raw")
    assert images.decode_picture(jpeg.image).icc_profile == cutout.icc_profile
    assert np.frombuffer(raw.image, np.uint8).reshape(raw.shape)[:, :40].min() == 255


@pytest.mark.slow
def test_several_styles_with_masks_and_a_guide_travel_as_inputs(client, photo, glass):
    height, width, _ = images.decode(photo).shape
    mask = np.zeros((height, width, 3), np.uint8)
    mask[:, : width // 2] = 255
    masks = [images.encode(mask), images.encode(255 - mask)]
    assert list(client.transfer(photo, [glass, photo], style_mask=masks, **TRANSFER))[-1].done
    assert list(client.dream(photo, guide_image=photo, **DREAM))[-1].done


def test_a_zoom_sequence_sends_its_frames(client, photo):
    steps = list(client.dream(photo, frames=2, **(DREAM | {"iterations": 1})))
    assert [s.frame for s in steps] == [0, 1, 0, 2, 0]


def test_time_that_is_up_gives_the_best_so_far_marked_so(client, photo):
    *_, last = client.dream(photo, max_seconds=0.5, **ENDLESS)
    assert (last.done, last.stopped) == (True, "max_seconds")
    assert images.decode(last.image).shape[1] == 160


def test_a_short_job_does_not_wait_for_a_long_one_to_end(client, server, photo):
    with Client(server.address.grpc) as other, other.dream(photo, **ENDLESS) as long_job:
        next(long_job)
        assert list(client.dream(photo, **DREAM))[-1].done
        assert not next(long_job).done


@pytest.mark.slow
def test_many_cancelled_jobs_leave_the_instance_free(client, server, photo):
    def started():
        """A job that computes; those cancelled before keep their places to the end of a step."""
        give_up = time.monotonic() + 60
        while True:
            stream = client.dream(photo, **ENDLESS)
            try:
                next(stream)
            except ReverieError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > give_up:
                    raise
            else:
                return stream

    for _ in range(3):
        streams = [started() for _ in range(5)]  # One place is left, for the last.
        for stream in streams:
            stream.cancel()
    assert list(client.dream(photo, timeout=60, **DREAM))[-1].done


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda c, p: c.transfer(p, p, style_mask=[p, p]), "style_mask: 2 masks for 1 style images"),
        (lambda c, p: c.transfer(p, [p] * 9), "style_image: 9 pictures; accepted: 1 to 8"),
        (lambda c, p: c.transfer(p, p, style_layers="block9_conv1=1"), "'block9_conv1' is not in compact; accepted"),
        (lambda c, p: c.transfer(p, p, total_variation_weight=float("nan")), "total_variation_weight: nan"),
        (lambda c, p: c.dream(p, tile=3), "tile: 3; accepted by compact: 0, or 80 to 2048"),
        (lambda c, p: c.dream(p, layers="block4_conv1:512=1"), "accepted: 0 to 511"),
        (lambda c, p: c.dream(p, guide_image=b"x"), "guide_image: 1 bytes that are not an image"),
        (lambda c, p: c.dream(p, preview_size=-1), "preview_size: -1"),
        (lambda c, p: c.transfer(NARROW, p), "400x13 at size 400; .* give a size of at least 465"),
        (lambda c, p: c.dream(NARROW), "1024x34 pixels; accepted by compact: sides of at least 80"),
        (lambda c, p: c.stylize(NARROW, size=400), "400x13 at size 400; .* give a size of at least 465"),
    ],
)
def test_bad_input_is_an_invalid_argument_with_what_is_accepted(client, photo, call, expected):
    with pytest.raises(ReverieError, match=expected) as caught:
        list(call(client, photo))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
def test_two_jobs_alternate(server, photo):
    """Both computed at the same time: each got records between the other's."""
    order: list[str] = []

    def run(name: str) -> None:
        with Client(server.address.grpc) as connection:
            for _ in connection.dream(photo, **(DREAM | {"iterations": 30})):
                order.append(name)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sum(a != b for a, b in itertools.pairwise(order)) > 6
