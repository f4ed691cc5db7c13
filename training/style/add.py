"""Teach a trained network one more style: `reverie train add-style`, `make add-style`.

A style is a row of scales and shifts in each normalization (Dumoulin et al. 2017, section 3.2), and its share of
the photograph. Only the new row is fitted; the rest of the network, and so every style it knows, stays bit for bit as it was.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from synthesis.style.network import StyleNetwork, StyleNetworkConfig, build
from training import loop
from training.photos import Photos
from training.runs import Run, RunError
from training.style.batches import ViewBatch
from training.style.train import (
    KIND,
    StyleTraining,
    batch_of,
    facts_of,
    fit,
    load,
    loss_of,
    split,
    trainer,
    weights_digest,
)


def add(
    source: Run, name: str, painting: Path, photos: Photos, path: Path | None, schedule: loop.Schedule, **changes
) -> Run:
    """Train or resume a run that adds the style `name`.

    Args:
        source: a finished run; its photographs' split and its settings hold here too.
        changes: fields of `StyleTraining` that differ from the source's.

    Returns:
        A style run like any other: ready for export, and for a further style.

    Raises:
        RunError: the source is not finished, or has a style of that name.
    """
    config = extended(source, name, steps=schedule.steps, **changes)
    old = load(source)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    network = with_style(old, config.network)
    kept, held_out = split(photos)
    loss = loss_of(config, [painting])
    facts = facts_of({name: painting}, photos) | {"added_to_sha256": weights_digest(old)}
    run = Run.create(KIND, asdict(config) | facts, path)
    new = np.eye(len(config.network.styles), dtype=np.float32)[-1:]

    def batch_at(step: int) -> ViewBatch:
        batch = batch_of(kept, config, step)
        return replace(batch, style_weights=np.repeat(new, len(batch.photos), axis=0))

    # The loss knows one painting only, the new one.
    model = trainer(
        network, lambda painted, photo, weights, *rest: loss(painted, photo, weights[:, -1:], *rest), config
    )
    fit(run, model, config, batch_at, held_out, schedule, [name])
    return run


def extended(source: Run, name: str, **changes) -> StyleTraining:
    """Return the settings of `source` with one more style, and without a teacher.

    Raises:
        RunError: see `add`.
    """
    if not source.finished:
        raise RunError(f"{source.path} is not finished; a style can be added to a finished run")
    known = StyleTraining.from_dict(source.config)
    if name in known.network.styles:
        raise RunError(f"{source.path} has a style {name!r} already; give another name (NAME=)")
    network = replace(known.network, styles=(*known.network.styles, name))
    errors = known.content_errors
    # The new style gives up as much of the photograph as the others do on average.
    errors = (*errors, float(np.mean(errors)))
    return replace(known, network=network, content_error=errors, distilled_steps=0, **changes)


def with_style(old: StyleNetwork, config: StyleNetworkConfig) -> StyleNetwork:
    """Return a copy of `old` with a style more, the mean of the others, of which only the styles' rows can be trained.

    Their older rows stay as they are although they are trainable: in batches of the new style alone their
    gradients are zero, and so are Adam's steps.
    """
    network = build(config)
    for new, value in zip(network.weights, old.weights, strict=True):
        known = keras.ops.convert_to_numpy(value)
        is_style = new.shape != value.shape
        new.assign(np.concatenate([known, known.mean(axis=0, keepdims=True)]) if is_style else known)
    for layer in network.convolutions():
        layer.trainable = False
    return network
