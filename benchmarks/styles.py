"""`make bench-styles`: what a style costs that nobody has trained, and how near to its painting it gets.

For paintings that the run held out: a draft by the run's predictor, the draft learned for a minute and a half, and, where
it is asked for, for half an hour; beside them the shipped style that is nearest to the painting. All are painted as
`stylize` paints, on the same photographs, and judged on the axes of `make eval-style`. One JSON object is the last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from imaging import images
from reverie.restylers import DEFAULT_STRENGTH, of_vectors, restyler_of
from reverie.style_evaluation import held_out, rounded
from synthesis.style.learn import LearnParameters, learn
from synthesis.style.network import StyleNetwork
from synthesis.style.predictor import StylePredictor, statistics_of
from training.photos import Photos
from training.runs import Run
from training.style.evaluation.classifier import Classifier
from training.style.evaluation.evaluate import (
    CONTENT_AXIS,
    STYLE_AXIS,
    Judges,
    Painted,
    Photograph,
    Restyler,
    evenly,
    figures,
    look_at,
    milliseconds,
)
from training.style.evaluation.perception import StyleStatistics, painting_statistics
from training.style.many import drafter
from training.style.train import split

_SHOWN_SECONDS = (5, 10, 20, 30, 45, 60, 90, 180, 300, 600, 1200, 1800)
"""When the curve of a learning style has its points."""

Targets = Mapping[str, StyleStatistics]


@dataclass(frozen=True)
class Judged:
    """Pictures in one style: what is left of the photographs, and how far each painting is."""

    recognised: float | None
    content_error: float
    style_errors: Mapping[str, float]

    @classmethod
    def of(
        cls, network: Restyler, style: str, photos: Sequence[Photograph], targets: Targets, judges: Judges
    ) -> Judged:
        """Paint the photographs in a style and look at them."""
        paint = network.in_style(style, DEFAULT_STRENGTH)
        found = figures([Painted.of(paint, photo, targets, judges) for photo in photos])
        return cls(found["recognised"], found["content_error"][CONTENT_AXIS], found["style_error"])


@dataclass(frozen=True)
class Learning:
    """A style that was learned: its vector, the seconds it took, and how its error fell."""

    vector: np.ndarray
    seconds: float
    curve: list[dict[str, float]]

    @classmethod
    def of(
        cls,
        network: StyleNetwork,
        draft: np.ndarray,
        painting: np.ndarray,
        photographs: Sequence[np.ndarray],
        parameters: LearnParameters,
    ) -> Learning:
        """Learn a style to the end."""
        curve, due = [], list(_SHOWN_SECONDS)
        for style in learn(network, draft, painting, photographs, parameters):
            if style.step and due and style.seconds >= due[0]:
                curve.append({"seconds": style.seconds, "steps": style.step, "style_error_on_crops": style.style_error})
                due = [seconds for seconds in due if seconds > style.seconds]
        return cls(style.vector, style.seconds, curve)


def main(
    run: Annotated[Path, typer.Option(help="A painter's run, finished or at its last checkpoint.")],
    paintings: Annotated[Path, typer.Option(help="Folder of paintings, those that the run held out among them.")],
    photos: Annotated[Path, typer.Option(help="Folder of photographs that no training saw.")],
    content: Annotated[Path, typer.Option(help="Folder of photographs to learn on: those that were trained on.")],
    styles: Annotated[
        list[Path], typer.Option("--style", help="The painting of a shipped style; repeat for all of them.")
    ],
    version: Annotated[
        str | None, typer.Option(help="Version with the shipped styles. Default: the run's own.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Where models are published.")] = Path("model_repository"),
    classifier: Annotated[Path | None, typer.Option(help="TensorFlow Lite classifier; without: null.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Photographs, evenly spaced.")] = 12,
    size: Annotated[int, typer.Option(min=128, help="Longer side of the photographs in pixels.")] = 512,
    learned_on: Annotated[int, typer.Option(min=1, help="Photographs that a style is learned on.")] = 8,
    most: Annotated[int, typer.Option(min=1, help="At most so many of the held-out paintings.")] = 10,
    seconds: Annotated[float, typer.Option(help="Time to learn a style.")] = 90.0,
    offline_seconds: Annotated[float, typer.Option(help="Time to fit it at leisure; 0 for not at all.")] = 1800.0,
    features: Annotated[str, typer.Option(help="Extractor to learn through: auto, vgg19 or compact.")] = "auto",
    cache: Annotated[Path, typer.Option(help="Where what is known of paintings is kept.")] = Path("cache"),
) -> None:
    """Measure shipped styles, and drafted and learned ones of paintings that no training saw."""
    network, predictor = drafter(Run(run))
    judges = Judges(Classifier(classifier) if classifier else None)
    looked_at = look_at(held_out([photos], None, count), size, count, judges)
    unseen = _unseen(Run(run), paintings, most)
    targets = {name: _target(path, cache) for name, path in unseen.items()}
    judge = partial(Judged.of, photos=looked_at, judges=judges)
    shipped = restyler_of(version or str(run), repository)
    known = {
        path.stem: judge(shipped, path.stem, targets=targets | {STYLE_AXIS: _target(path, cache)}) for path in styles
    }
    few = split(Photos.of(content))[0].paths
    tried_on = [images.read(few[i]) for i in evenly(len(few), learned_on)]
    parameters = LearnParameters(max_seconds=seconds, max_steps=100_000, features=features)
    rows = {}
    for name, path in unseen.items():
        rows[name] = _row(network, predictor, images.read(path), tried_on, parameters, offline_seconds) | {
            "nearest_shipped_style_error": min(style.style_errors[name] for style in known.values())
        }
        vectors = rows[name].pop("vectors")
        styled = of_vectors(name, network, vectors)
        for kind in vectors:
            rows[name] |= _figures(kind, judge(styled, kind, targets={name: targets[name]}), name)
        _say(f"{name}: {json.dumps(rounded({k: v for k, v in rows[name].items() if k != 'curve'}))}")
    shown = (
        _of_shipped(known)
        | _means(rows)
        | {
            "network_ms_512": milliseconds([shipped])[0],
            "vector_bytes": 4 * network.length,
            "photos": len(looked_at),
            "features": features,
            "paintings": rows,
        }
    )
    print(json.dumps(rounded(shown)))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _unseen(run: Run, folder: Path, most: int) -> dict[str, Path]:
    """The paintings that the run held out."""
    names = run.config["held_out"][:most]
    return {path.stem: path for path in Photos.of(folder).paths if path.stem in names}


def _target(path: Path, cache: Path) -> StyleStatistics:
    return painting_statistics(images.read(path), cache / "style_targets")[STYLE_AXIS]


def _row(
    network: StyleNetwork,
    predictor: StylePredictor,
    painting: np.ndarray,
    photographs: Sequence[np.ndarray],
    parameters: LearnParameters,
    offline_seconds: float,
) -> dict[str, Any]:
    """What it takes to make a painting's vectors, and the vectors."""
    draft, draft_seconds = _timed(lambda: np.asarray(predictor(statistics_of([painting])))[0])
    learned = Learning.of(network, draft, painting, photographs, parameters)
    vectors = {"draft": draft, "learned": learned.vector}
    row = {"draft_seconds": draft_seconds, "learned_seconds": learned.seconds, "curve": learned.curve}
    if offline_seconds:
        longer = replace(parameters, max_seconds=offline_seconds)
        offline = Learning.of(network, draft, painting, photographs, longer)
        vectors["offline"] = offline.vector
        row |= {"offline_seconds": offline.seconds, "curve": offline.curve}
    return row | {"vectors": vectors}


def _timed(make: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    make()  # The first loads the extractor.
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def _figures(kind: str, judged: Judged, name: str) -> dict[str, Any]:
    return {
        f"{kind}_style_error": judged.style_errors[name],
        f"{kind}_content_error": judged.content_error,
        f"{kind}_recognised": judged.recognised,
    }


def _of_shipped(known: Mapping[str, Judged]) -> dict[str, Any]:
    errors = [style.style_errors[STYLE_AXIS] for style in known.values()]
    recognised = [style.recognised for style in known.values() if style.recognised is not None]
    return {
        "shipped": len(known),
        "recognised_mean": float(np.mean(recognised)) if recognised else None,
        "recognised_worst": min(recognised, default=None),
        "style_error_mean": float(np.mean(errors)),
        "style_error_worst": max(errors),
        "styles": {
            name: {
                "recognised": style.recognised,
                "content_error": style.content_error,
                "style_error": style.style_errors[STYLE_AXIS],
            }
            for name, style in known.items()
        },
    }


def _means(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The means over paintings of every figure that all of them have."""
    names = [name for name, value in next(iter(rows.values())).items() if isinstance(value, float)]
    means = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
    return {"offline_style_error": None} | means


if __name__ == "__main__":
    typer.run(main)
