"""How many iterations of L-BFGS reach what a network paints? The objective that the network replaces, as a figure.

That is the loss of `synthesis.gatys` on VGG19 (Johnson et al. 2016, section 4.1): from the photograph, where the book
starts, and if asked from noise, where that paper's baseline does and takes longer. It hardly counts the photograph, and
holds for one size of the painting, so a network may be good at it and bad to look at. Takes minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging import images
from synthesis import gatys
from synthesis.objective import Evaluation, Targets
from synthesis.optimizers import OPTIMIZERS
from training.style.evaluation.evaluate import Restyler, Say, check_styles
from training.style.evaluation.surface import Paint


@dataclass(frozen=True)
class PassesSettings:
    """What is counted.

    Attributes:
        passes: at most so many of L-BFGS are tried; a network that they do not reach counts as this many.
        noise_passes: the same from noise; 0 for none.
        size: longer side of the photographs in pixels.
        style_size: longer side of the paintings. They keep their shape: a network has one target for a painting,
            where the book stretches it to each photograph, which alone moves the objective by up to a third of the untouched photograph's.
        cache: folder of the curves as far as they were needed, which take most of the time.
    """

    passes: int = 200
    noise_passes: int = 0
    size: int = 384
    style_size: int = 384
    cache: Path = Path("cache") / "style_curves"

    def targets(self, photo: np.ndarray, painting: np.ndarray) -> Targets:
        """Return the targets of the book's objective on VGG19."""
        return gatys.book_targets(gatys.objective("vgg19"), photo, painting, gatys.BOOK, self.style_size)

    def key(self, photo: np.ndarray, painting: np.ndarray, start: np.ndarray) -> str:
        """Return a name that tells curves apart."""
        asked = f"{self.style_size} {gatys.BOOK.model_dump_json()}"
        pictures = b"".join(picture.tobytes() for picture in (photo, painting, start))
        return hashlib.sha256(pictures + asked.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Passes:
    """One picture in one style; losses carry the book's weights.

    Attributes:
        lbfgs_passes_equal: iterations of L-BFGS from the photograph to the same objective;
            `lbfgs_passes_equal_from_noise` from `noise`, None where that was not asked for.
        objective: content, style and total variation together; `objective_photo` that of the untouched photograph.
    """

    lbfgs_passes_equal: float
    lbfgs_passes_equal_from_noise: float | None
    objective: float
    objective_photo: float
    content_loss: float
    style_loss: float
    total_variation: float


def count_passes(
    network: Restyler,
    paintings: Mapping[str, Path],
    photos: Sequence[Path],
    strength: float,
    settings: PassesSettings,
    say: Say = lambda line: None,
) -> dict:
    """Return the means over photographs, each in one of the paintings' styles in turn, and over each style's own.

    Raises:
        EvaluationError: a painting is none of the network's styles.
    """
    check_styles(network, paintings)
    by_style: dict[str, list[Passes]] = {}
    for path, style in zip(photos, itertools.cycle(paintings), strict=False):
        photo = images.fit_within(images.read(path), settings.size)
        one = measure(network.in_style(style, strength), photo, images.read(paintings[style]), settings)
        by_style.setdefault(style, []).append(one)
        say(f"{path.name} as {style}: {one.lbfgs_passes_equal:.1f} L-BFGS passes")
    every = [one for measured in by_style.values() for one in measured]
    return {"photos": len(every), **means(every), "styles": {name: means(each) for name, each in by_style.items()}}


def measure(paint: Paint, photo: np.ndarray, painting: np.ndarray, settings: PassesSettings) -> Passes:
    """Measure one picture."""
    painted = paint(photo)
    measured = gatys.objective("vgg19").measure(painted.astype(np.float64), settings.targets(photo, painting))
    curve = lbfgs_curve(photo, painting, photo.astype(np.float64), measured.loss, settings.passes, settings)
    from_noise = None
    if settings.noise_passes:
        start = noise(*photo.shape)
        from_noise = passes_equal(
            measured.loss, lbfgs_curve(photo, painting, start, measured.loss, settings.noise_passes, settings)
        )
    return Passes(
        lbfgs_passes_equal=passes_equal(measured.loss, curve),
        lbfgs_passes_equal_from_noise=from_noise,
        objective=measured.loss,
        objective_photo=curve[0],
        content_loss=measured.parts["content"],
        style_loss=measured.parts["style"],
        total_variation=measured.parts["total_variation"],
    )


def means(measured: Sequence[Passes]) -> dict[str, float | None]:
    """Return each figure's mean; None for one that was not measured."""
    columns = {name: [getattr(one, name) for one in measured] for name in Passes.__dataclass_fields__}
    return {name: None if None in column else float(np.mean(column)) for name, column in columns.items()}


def noise(height: int, width: int, channels: int) -> np.ndarray:
    """Return noise, float64 (height, width, channels), uniform in [0, 255], always the same: "white noise" as Gatys et al. begin."""
    return np.random.default_rng(0).uniform(0, 255, (height, width, channels))


class _Reached(Exception):
    """The curve is at the objective that was asked for."""


def lbfgs_curve(
    photo: np.ndarray, painting: np.ndarray, start: np.ndarray, objective: float, passes: int, settings: PassesSettings
) -> list[float]:
    """Return the objective of `start`, and after each L-BFGS iteration from it up to the first at or below `objective`.

    From the cache where that has it, and of at most `passes` iterations.
    """
    file = settings.cache / f"{settings.key(photo, painting, start)}.json"
    curve = json.loads(file.read_text()) if file.exists() else []
    if len(curve) <= passes and min(curve, default=np.inf) > objective:
        curve = _descend(settings.targets(photo, painting), start, objective, passes)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(curve) + "\n")
    return curve[: passes + 1]


def _descend(targets: Targets, start: np.ndarray, objective: float, passes: int) -> list[float]:
    """A new curve. Plain L-BFGS, not `gatys.transfer`, whose first picture and smaller sizes make it faster."""
    goal = gatys.objective("vgg19")
    losses = [goal.measure(start, targets).loss]

    def report(pixels: np.ndarray, here: Evaluation) -> None:
        losses.append(here.loss)
        if here.loss <= objective:
            raise _Reached

    if losses[0] > objective:
        with contextlib.suppress(_Reached):
            OPTIMIZERS["lbfgs"](lambda pixels: goal.measure(pixels, targets), start, passes, 0.0, report)
    return losses


def passes_equal(objective: float, curve: Sequence[float]) -> float:
    """Return where a falling curve reaches `objective`, between two passes along the logarithm; its last pass if it never does."""
    falling = np.minimum.accumulate(np.asarray(curve, np.float64))
    return float(np.interp(-np.log(objective), -np.log(falling), np.arange(len(falling))))
