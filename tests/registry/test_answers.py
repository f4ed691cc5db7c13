"""Answers that cannot take the stable version's place, and those of a version that was only trained again."""

from __future__ import annotations

import re

import numpy as np
import pytest

from registry.answers import faults, sample_picture
from registry.golden import run
from tests.serving.shipped import TABLE, newest

SEED = np.random.default_rng(0)
PHOTO = sample_picture()


@pytest.fixture(scope="module")
def paintings() -> list[np.ndarray]:
    """The sample picture in every shipped style."""
    graph = newest("style") / "model.onnx"
    return [run(graph, {"image": PHOTO, **style})["stylized"] for style in TABLE.inputs()]


def compared(stable: np.ndarray, canary: np.ndarray, photo: np.ndarray = PHOTO) -> list[str]:
    return faults({"image": photo}, {"stylized": stable}, {"stylized": canary})


def test_any_shipped_style_may_take_the_place_of_any_other(paintings):
    for stable in paintings:
        for canary in paintings:
            assert compared(stable, canary) == []


def of_one_color(*color: int) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), PHOTO.shape).copy()


def specks(share: float) -> np.ndarray:
    """White pixels, so many, on black."""
    picked = SEED.random((*PHOTO.shape[:3], 1)) < share
    return np.where(picked, np.uint8(255), of_one_color(0, 0, 0))


@pytest.mark.parametrize(
    ("canary", "fault"),
    [
        (of_one_color(0, 0, 0), r"one color \(luminance 0 of 255\)"),
        (of_one_color(255, 255, 255), r"one color \(luminance 255 of 255\)"),
        (of_one_color(200, 30, 90), "one color"),
        ((PHOTO // 24).astype(np.uint8), "contrast"),
        (specks(0.1), "bits a pixel"),
        (SEED.integers(0, 256, PHOTO.shape, np.uint8), "does not show the photograph"),
        (np.roll(PHOTO, 64, (1, 2)), "does not show the photograph"),
        (PHOTO[:, :64], r"answered \[1, 64, 128, 3\]"),
    ],
    ids=["black", "white", "any color", "faint", "specks", "noise", "shifted", "shape"],
)
def test_a_picture_that_shows_nothing_is_refused(paintings, canary, fault):
    assert_refused(compared(paintings[0], canary), fault)


def test_one_black_picture_of_a_batch_is_enough(paintings):
    stable = np.concatenate([paintings[0], paintings[1]])
    canary = np.concatenate([paintings[0], of_one_color(0, 0, 0)])
    assert_refused(compared(stable, canary, np.concatenate([PHOTO, PHOTO])), "one color")


def test_black_is_refused_also_where_the_stable_version_answers_black():
    assert_refused(compared(of_one_color(0, 0, 0), of_one_color(0, 0, 0)), "one color")


def test_a_black_photograph_may_stay_black():
    assert compared(of_one_color(0, 0, 0), of_one_color(0, 0, 0), of_one_color(0, 0, 0)) == []


LOGPROBS = -SEED.exponential(2, (4, 16)).astype(np.float32)
IDS = {"token_ids": np.ones((4, 17), np.int32)}


@pytest.mark.parametrize(
    ("canary", "fault"),
    [
        (np.full_like(LOGPROBS, np.nan), "NaN or infinity"),
        (np.where(LOGPROBS.min() == LOGPROBS, -np.inf, LOGPROBS), "NaN or infinity"),
        (np.full_like(LOGPROBS, -9.01), "is -9.01 everywhere"),
        (LOGPROBS[:, :3], "answered"),
    ],
    ids=["NaN", "infinity", "all logits equal", "shape"],
)
def test_log_probabilities_that_say_nothing_are_refused(canary, fault):
    assert_refused(faults(IDS, {"token_logprobs": LOGPROBS}, {"token_logprobs": canary}), fault)


def test_a_language_model_that_was_trained_again_is_accepted():
    retrained = LOGPROBS + SEED.normal(0, 0.5, LOGPROBS.shape).astype(np.float32)
    assert faults(IDS, {"token_logprobs": LOGPROBS}, {"token_logprobs": retrained}) == []


def test_a_missing_output_is_refused():
    assert faults(IDS, {"token_logprobs": LOGPROBS}, {}) == [
        "token_logprobs: answered nothing, the stable version [4, 16]"
    ]


def assert_refused(found: list[str], fault: str) -> None:
    assert len(found) == 1
    assert re.search(fault, found[0]), found[0]
