"""Hang many styles in one network: `reverie train gallery`.

Each painting's vector is drafted by a painter's run and then learned, as any app could do it; styles with a row of their
own in that run keep it. What comes out is a style run like any other, ready for export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from imaging import images
from reverie.progress import followed
from synthesis.style.learn import LearnParameters, learn
from synthesis.style.network import StyleNetwork, with_styles
from synthesis.style.predictor import StylePredictor, statistics_of
from training import files
from training.runs import Run
from training.style.many import drafter
from training.style.train import KIND, StyleTraining, weights_digest


@dataclass(frozen=True)
class _Painter:
    """What makes vectors; see `hang`."""

    network: StyleNetwork
    predictor: StylePredictor
    photographs: Sequence[np.ndarray]
    parameters: LearnParameters

    def style(self, name: str, path: Path) -> dict[str, np.ndarray]:
        """The vector of a painting, and its errors on crops, NaN for a style with its own row."""
        known = self.network.config.styles
        if name in known:
            row = np.eye(len(known), dtype=np.float32)[[known.index(name)]]
            vector = np.asarray(self.network.vectors(row))[0]
            return {"vector": vector, "content_error": np.float32("nan"), "style_error": np.float32("nan")}
        painting = images.read(path)
        draft = np.asarray(self.predictor(statistics_of([painting])))[0]
        *_, last = learn(self.network, draft, painting, self.photographs, self.parameters)
        return {name: np.asarray(getattr(last, name)) for name in ("vector", "content_error", "style_error")}


def hang(
    source: Run,
    paintings: Mapping[str, Path],
    photographs: Sequence[np.ndarray],
    parameters: LearnParameters,
    path: Path | None,
) -> Run:
    """Learn a style for each painting and write the run of all of them, or go on after the last one that was learned.

    Args:
        source: a run of `training.style.many`, finished or not.
        paintings: by the names of the styles, in their order.
        photographs: uint8 (height, width, 3) each, what styles are tried on.

    Raises:
        RunError: see `training.style.many.drafter`; or there is a run in the folder with other settings.
    """
    painter = _Painter(*drafter(source), photographs, parameters)
    config = StyleTraining.from_dict(source.config)
    config = replace(config, network=replace(config.network, styles=tuple(paintings)), content_error=(0.6,))
    facts = {
        "paintings_sha256": {name: files.digest([painting]) for name, painting in paintings.items()},
        "learned_from_sha256": weights_digest(painter.network),
        "learning": asdict(parameters),
    }
    run = Run.create(KIND, asdict(config) | facts, path)
    if not run.finished:
        learning = followed(paintings.items(), "learning styles", len(paintings))
        _finish(run, painter.network, {name: _kept(run, painter, name, painting) for name, painting in learning})
    return run


def _kept(run: Run, painter: _Painter, name: str, painting: Path) -> dict[str, np.ndarray]:
    """A style that was learned before the run was stopped, or now."""
    file = run.path / "vectors" / f"{name}.npz"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        files.save_arrays(file, painter.style(name, painting))
    with np.load(file) as data:
        return dict(data)


def _finish(run: Run, network: StyleNetwork, styles: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    with_styles(network, {name: style["vector"] for name, style in styles.items()}).save_weights(run.weights)
    learned = {name: style for name, style in styles.items() if np.isfinite(style["style_error"])}
    errors = {
        f"{kind}_{name}": float(style[kind])
        for kind in ("content_error", "style_error")
        for name, style in learned.items()
    }
    run.finish({"styles": len(styles), "learned": len(learned), **errors})
