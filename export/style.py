"""A style run to a version folder: `model.onnx` (uint8 pictures of any size in and out) and `styles.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from export import configuration, onnx_graph, parity
from export.version import Exported
from training.runs import Run
from training.style import train
from training.style.network import MULTIPLE, StyleNetwork, reflect_pad

NAME = "style"
DEPENDENTS = ("stylize",)
TOLERANCE = parity.Tolerance(largest=6.0, mean=0.1, unit="of 255")
"""Rounding to uint8 alone makes 1; weights are stored as float16."""


def export(run: Run, folder: Path) -> Exported:
    """Write the version's files into `folder`.

    Raises:
        ParityError: the graph departs from Keras on the run's sample photos.
    """
    network = train.load(run)
    styles = network.config.styles
    graph = onnx_graph.convert(
        lambda image, style_weights: restyle(network, image, style_weights),
        [
            tf.TensorSpec((None, None, None, 3), tf.uint8, name="image"),
            tf.TensorSpec((None, len(styles)), tf.float32, name="style_weights"),
        ],
        output="stylized",
        name=NAME,
    )
    graph = onnx_graph.store_weights_as_float16(graph)
    measured = [_compare(graph, network, image) for image in _sample_photos(run)]
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "styles.json").write_text(json.dumps(styles) + "\n")
    return Exported(NAME, DEPENDENTS, configuration.style(styles), max(measured, key=lambda p: p.largest))


def restyle(network: StyleNetwork, image, style_weights):
    """The served function: pad to what the network needs, restyle, crop back, round to uint8.

    Args:
        image: uint8 (batch, height, width, 3), sides of at least 16.
        style_weights: float32 (batch, styles).
    """
    height, width = tf.shape(image)[1], tf.shape(image)[2]
    padded = reflect_pad(tf.cast(image, tf.float32), 0, _missing(height), _missing(width))
    stylized = network((padded, style_weights))[:, :height, :width]
    return tf.cast(tf.clip_by_value(tf.round(stylized), 0.0, 255.0), tf.uint8)


def _missing(size):
    """Pixels to the next multiple; of positive operands only, since ONNX's Mod truncates towards zero."""
    return (MULTIPLE - size % MULTIPLE) % MULTIPLE


def _compare(graph, network: StyleNetwork, image: np.ndarray) -> parity.Parity:
    count = len(network.config.styles)
    weights = np.eye(count, dtype=np.float32)
    batch = np.repeat(image[None], count, axis=0)
    exported = parity.run_graph(graph, {"image": batch, "style_weights": weights})
    return parity.check(exported, restyle(network, batch, weights).numpy(), TOLERANCE, NAME)


def _sample_photos(run: Run) -> list[np.ndarray]:
    """The photographs on the run's last sample sheet (its first column), one cut to an odd size."""
    sheets = sorted(run.samples.glob("*.jpg"))
    if not sheets:
        return [np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)]
    sheet = np.asarray(Image.open(sheets[-1]))
    photos = [sheet[top : top + 256, :256] for top in range(0, sheet.shape[0], 256)]
    return [*photos, photos[0][:101, :157]]
