"""Large pictures: tiles come out as in the whole picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from imaging import images
from serving.style import tiles
from serving.style.files import graph_for_tiles
from serving.style.margin import MARGIN
from serving.style.statistics import split_statistics
from serving.style.table import WEIGHTS, StyleTable
from tests.conftest import PICTURES
from tests.serving.style_graph import (
    SHIPPED,
    shipped_network,
    tint,
    tinting_network,
    with_mirrored_margin,
    write_version,
)


@given(st.integers(16, 8192), st.sampled_from([256, 512, tiles.TILE]))
def test_tiles_cover_a_picture_overlap_and_keep_the_network_s_grid(length, tile):
    spans = list(tiles.spans(length, tile))
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(tile >= end - start > (tiles.OVERLAP if len(spans) > 1 else 0) for start, end in spans)
    assert all(start % tiles.GRID == 0 for start, _ in spans)
    assert all(spans[i][1] - spans[i + 1][0] == tiles.OVERLAP for i in range(len(spans) - 1))


def test_joining_tiles_of_a_function_of_single_pixels_changes_nothing():
    photo = np.random.default_rng(0).integers(0, 256, (700, 530, 3), np.uint8)
    np.testing.assert_array_equal(tiles.join_tiles(photo, lambda part: 255 - part, 256), 255 - photo)


def test_what_a_tile_s_border_feels_is_not_seen_nor_what_the_picture_s_does():
    photo = np.full((700, 530, 3), 100, np.uint8)

    def with_border(part: np.ndarray) -> np.ndarray:
        """Wrong near its own borders."""
        wrong = np.zeros_like(part)
        wrong[MARGIN:-MARGIN, MARGIN:-MARGIN] = 100
        return wrong

    np.testing.assert_array_equal(tiles.join_tiles(photo, with_border, 256), 100)


@pytest.mark.slow
def test_instance_normalization_takes_the_whole_picture_s_statistics(tmp_path):
    # A dark and a bright half: tiles on their own would look alike.
    photo = images.resize(np.random.default_rng(0).integers(0, 60, (6, 8, 3), np.uint8), 600, 800)
    photo = photo + np.where(np.arange(800) < 400, 0, 190).astype(np.uint8)[:, None]
    weights = np.array([0, 0.5, 0.5], np.float32)
    tiled = tiles.restyle_in_tiles(
        write_version(tmp_path / "1") / "model.onnx", photo, {WEIGHTS: weights[None]}, tile=256
    )
    assert np.abs(tiled.astype(int) - with_mirrored_margin(tint, photo, weights)).max() <= 1


@pytest.mark.slow
def test_the_shipped_network_restyles_in_tiles_as_in_one_piece():
    graph = graph_for_tiles(SHIPPED.parent)
    photo = images.fit_within(images.read(PICTURES / "pagoda.jpg"), 400)
    tiled = tiles.restyle_in_tiles(graph, photo, StyleTable.read(SHIPPED.parent).inputs()[0], tile=256)
    difference = np.abs(tiled.astype(int) - with_mirrored_margin(shipped_network(graph), photo))
    assert np.quantile(difference, 0.999) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(16, 2049), (2100, 33)])
def test_a_narrow_picture_is_restyled_in_tiles_as_in_one_piece(height, width):
    graph = graph_for_tiles(SHIPPED.parent)
    photo = images.resize(images.read(PICTURES / "pagoda.jpg"), height, width)
    tiled = tiles.restyle_in_tiles(graph, photo, StyleTable.read(SHIPPED.parent).inputs()[0])
    difference = np.abs(tiled.astype(int) - with_mirrored_margin(shipped_network(graph), photo))
    assert np.quantile(difference, 0.999) <= 4


@given(st.integers(16, 8192), st.integers(16, 8192))
def test_a_thumbnail_has_the_pixels_of_a_tile_at_most_and_both_sides(height, width):
    small = images.size_within(height, width, tiles.thumbnail_side(height, width))
    assert math.prod(small) <= 1.01 * tiles.TILE**2
    assert small == (height, width) or min(small) >= 45


def test_a_network_without_statistics_is_refused():
    model = tinting_network()
    kept = [node for node in model.graph.node if node.op_type != "InstanceNormalization"]
    bypass = helper.make_node("Identity", ["nchw"], ["normal"])
    del model.graph.node[:]
    model.graph.node.extend([*kept[:2], bypass, *kept[2:]])
    with pytest.raises(ValueError, match="neither InstanceNormalization nor ReduceMean"):
        split_statistics(model)
