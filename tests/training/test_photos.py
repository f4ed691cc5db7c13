import shutil

import numpy as np
import pytest

from imaging import images
from training.photos import Photos, PhotosError


@pytest.fixture
def folder(random_photos, tmp_path):
    """Twelve photographs, and files that are none."""
    folder = shutil.copytree(random_photos, tmp_path / "photos")
    large = images.encode(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8), "jpeg")
    (folder / "cut.jpg").write_bytes(large[: len(large) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "._x.jpg").write_bytes(b"\x00\x05\x16\x07 a resource fork")
    (folder / "tiny.png").write_bytes(
        images.encode(np.zeros((16, 16, 3), np.uint8)).replace(b"\0\0\0\x10", b"\0\0\0\x0a")
    )
    (folder / "long.png").write_bytes(images.encode(np.zeros((20, 2000, 3), np.uint8)))
    (folder / "a folder.jpg").mkdir()
    return folder


def test_files_that_cannot_be_learnt_from_are_named_once_and_left_out(folder, capsys):
    photos = Photos.of(folder)
    assert len(photos.paths) == 12
    said = capsys.readouterr().err
    assert "left out 5 files" in said
    for name in ("cut.jpg", "empty.png", "._x.jpg", "tiny.png", "long.png"):
        assert name in said
    for path in photos.paths:
        Photos((path,)).crops(0, 2, 32, seed=0)


def test_they_stop_a_training_that_is_told_to_be_strict(folder):
    with pytest.raises(PhotosError, match=r"5 files that cannot be learned from.*continue without them"):
        Photos.of(folder, strict=True)


def test_too_few_that_can_be_read_are_too_few(folder):
    with pytest.raises(PhotosError, match="holds 12 images that can be read, 13 are needed"):
        Photos.of(folder, minimum=13)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PhotosError, match="there is no folder"):
        Photos.of(tmp_path / "nowhere")


def test_photographs_in_linked_folders_and_with_capital_endings_are_found(random_photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link").symlink_to(random_photos)
    (folder / "link back").symlink_to(folder)
    shutil.copy(random_photos / "00.png", folder / "X.PNG")
    assert len(Photos.of(folder).paths) == 13


def test_the_digest_follows_the_contents_and_not_the_place(random_photos, tmp_path):
    here = Photos.of(random_photos)
    there = Photos.of(shutil.copytree(random_photos, tmp_path / "copy"))
    assert here.digest == there.digest
    there.paths[3].write_bytes(there.paths[4].read_bytes())
    assert here.digest != there.digest
