"""How good is a style network? Measured on photographs that no training saw: `reverie eval style`.

The yardstick is the objective that the network replaces (Johnson et al. 2016, section 4.1): the loss of
`synthesis.gatys` on VGG19 of the network's picture, stated as the number of L-BFGS iterations that reach it: from the
photograph, where the book starts, and if asked from noise, where that paper's baseline does and takes longer. Knows a
network only as a function, so that a served graph is measured by the same code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from synthesis import features, gatys, images
from synthesis.objective import Evaluation as ObjectiveEvaluation
from synthesis.objective import Targets
from synthesis.optimisers import OPTIMISERS
from training.runs import Run
from training.style import train
from training.style.network import restyle

Restyle = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""uint8 (batch, height, width, 3) and float32 (batch, styles) to uint8, as `training.style.network.restyle`."""

_BORDER = 16
"""Pixels left out where a picture is compared with a shifted one."""
_SHEET_PHOTOS, _SHEET_SIDE = 8, 256


@dataclass(frozen=True)
class Evaluation:
    """What is measured.

    Attributes:
        size: longer side of the photographs in pixels.
        style_size: longer side of the paintings. They keep their shape: a network has one target for a painting,
            where the book stretches it to each photograph, which alone moves the objective by up to a third of the untouched photograph's.
        passes: at most so many of L-BFGS are tried; a network that they do not reach counts as this many.
        noise_passes: the same from noise; 0 for none.
        cache: folder of the curves as far as they were needed, which take most of the time.
    """

    size: int = 384
    passes: int = 200
    cache: Path = Path("cache") / "style_curves"
    style_size: int = 384
    noise_passes: int = 0

    def targets(self, photo: np.ndarray, painting: np.ndarray) -> Targets:
        """Of the book's objective on VGG19."""
        return gatys.book_targets(gatys.objective("vgg19"), photo, painting, gatys.BOOK, self.style_size)

    def key(self, photo: np.ndarray, painting: np.ndarray, start: np.ndarray) -> str:
        """Tells curves apart."""
        asked = f"{self.style_size} {gatys.BOOK.model_dump_json()}"
        pictures = b"".join(picture.tobytes() for picture in (photo, painting, start))
        return hashlib.sha256(pictures + asked.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Measured:
    """One picture in one style; losses carry the book's weights.

    Attributes:
        lbfgs_passes_equal: iterations of L-BFGS from the photograph to the same objective;
            `lbfgs_passes_equal_from_noise` from `noise`, None where that was not asked for.
        objective: content, style and total variation together; `objective_photo` that of the untouched photograph.
        ssim: structural similarity to the photograph, 1 for the same.
        feature_distance: to the photograph, mean squared distance of VGG19's activations, each position's
            channels normalised to length 1, mean over the style layers (as LPIPS without its learnt weights).
        one_pixel_shift: mean absolute change, of 255, when the photograph moves by one pixel.
    """

    lbfgs_passes_equal: float
    lbfgs_passes_equal_from_noise: float | None
    objective: float
    objective_photo: float
    content_loss: float
    style_loss: float
    total_variation: float
    ssim: float
    feature_distance: float
    one_pixel_shift: float


def evaluate(
    paint: Restyle,
    styles: Sequence[str],
    paintings: Mapping[str, Path],
    photos: Sequence[Path],
    evaluation: Evaluation,
    on_photo: Callable[[str], None] = lambda line: None,
) -> dict:
    """Means over photographs, each in one of the paintings' styles in turn, and over each style's own.

    Args:
        styles: the network's, in the order of its weight vector.
        paintings: of the styles to measure.

    Raises:
        ValueError: a painting is none of the network's styles.
    """
    unknown = sorted(set(paintings) - set(styles))
    if unknown or not paintings:
        raise ValueError(f"paintings {unknown} are no styles of the network; accepted: {', '.join(styles)}")
    by_style: dict[str, list[Measured]] = {}
    for path, name in zip(photos, _in_turn(paintings), strict=False):
        weights = np.eye(len(styles), dtype=np.float32)[[styles.index(name)]]
        photo = images.fit_within(images.read(path), evaluation.size)
        one = measure(partial(_paint_one, paint, weights), photo, images.read(paintings[name]), evaluation)
        by_style.setdefault(name, []).append(one)
        on_photo(f"{path.name} as {name}: {one.lbfgs_passes_equal:.1f} L-BFGS passes, ssim {one.ssim:.2f}")
    every = [one for measured in by_style.values() for one in measured]
    return {"photos": len(every), **means(every), "styles": {name: means(each) for name, each in by_style.items()}}


def evaluate_runs(
    run: Run,
    against: Run | None,
    paintings: Mapping[str, Path],
    photos: Sequence[Path],
    evaluation: Evaluation,
    on_photo: Callable[[str], None] = lambda line: None,
) -> dict:
    """`evaluate` for a run and, beside it, another; the contact sheet goes to `evaluation.jpg` in the first's folder."""
    runs = [run] if against is None else [run, against]
    networks = [train.load(each) for each in runs]
    restyles = [partial(restyle, network) for network in networks]
    results = [
        {"run": str(each.path)} | evaluate(function, network.config.styles, paintings, photos, evaluation, on_photo)
        for each, network, function in zip(runs, networks, restyles, strict=True)
    ]
    sheet = run.path / "evaluation.jpg"
    counts = [len(network.config.styles) for network in networks]
    contact_sheet(list(zip(restyles, counts, strict=True)), photos, sheet)
    result = results[0] | {"sheet": str(sheet), "size": evaluation.size, "passes": evaluation.passes}
    if against is not None:
        passes = [each["lbfgs_passes_equal"] for each in results]
        result |= {"against": results[1], "passes_ratio": float(f"{passes[0] / max(passes[1], 1e-9):.4g}")}
    return result


def measure(
    paint: Callable[[np.ndarray], np.ndarray], photo: np.ndarray, painting: np.ndarray, evaluation: Evaluation
) -> Measured:
    """Everything about one picture; `paint` takes and gives uint8 (height, width, 3)."""
    painted = paint(photo)
    seen = gatys.objective("vgg19").measure(painted.astype(np.float64), evaluation.targets(photo, painting))
    curve = lbfgs_curve(photo, painting, photo.astype(np.float64), seen.loss, evaluation.passes, evaluation)
    from_noise = None
    if evaluation.noise_passes:
        start = noise(*photo.shape)
        from_noise = passes_equal(
            seen.loss, lbfgs_curve(photo, painting, start, seen.loss, evaluation.noise_passes, evaluation)
        )
    return Measured(
        lbfgs_passes_equal=passes_equal(seen.loss, curve),
        lbfgs_passes_equal_from_noise=from_noise,
        objective=seen.loss,
        objective_photo=curve[0],
        content_loss=seen.parts["content"],
        style_loss=seen.parts["style"],
        total_variation=seen.parts["total_variation"],
        ssim=float(tf.image.ssim(tf.constant(photo), tf.constant(painted), 255)),
        feature_distance=feature_distance(photo, painted),
        one_pixel_shift=one_pixel_shift(paint, photo),
    )


def means(measured: Sequence[Measured]) -> dict[str, float | None]:
    """Each figure's mean, to four digits; None for one that was not measured."""
    columns = {name: [getattr(one, name) for one in measured] for name in Measured.__dataclass_fields__}
    return {name: None if None in column else float(f"{np.mean(column):.4g}") for name, column in columns.items()}


def noise(height: int, width: int, channels: int) -> np.ndarray:
    """float64 (height, width, channels), uniform in [0, 255], always the same: "white noise" as Gatys et al. begin."""
    return np.random.default_rng(0).uniform(0, 255, (height, width, channels))


class _Reached(Exception):
    """The curve is at the objective that was asked for."""


def lbfgs_curve(
    photo: np.ndarray, painting: np.ndarray, start: np.ndarray, objective: float, passes: int, evaluation: Evaluation
) -> list[float]:
    """The objective of `start`, and after each L-BFGS iteration from it up to the first at or below `objective`.

    From the cache where that has it, and of at most `passes` iterations.
    """
    file = evaluation.cache / f"{evaluation.key(photo, painting, start)}.json"
    curve = json.loads(file.read_text()) if file.exists() else []
    if len(curve) <= passes and min(curve, default=np.inf) > objective:
        curve = _descend(evaluation.targets(photo, painting), start, objective, passes)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(curve) + "\n")
    return curve[: passes + 1]


def _descend(targets: Targets, start: np.ndarray, objective: float, passes: int) -> list[float]:
    """A new curve. Plain L-BFGS, not `gatys.transfer`, whose first picture and smaller sizes make it faster."""
    goal = gatys.objective("vgg19")
    losses = [goal.measure(start, targets).loss]

    def report(pixels: np.ndarray, here: ObjectiveEvaluation) -> None:
        losses.append(here.loss)
        if here.loss <= objective:
            raise _Reached

    if losses[0] > objective:
        with contextlib.suppress(_Reached):
            OPTIMISERS["lbfgs"](lambda pixels: goal.measure(pixels, targets), start, passes, 0.0, report)
    return losses


def passes_equal(objective: float, curve: Sequence[float]) -> float:
    """Where a falling curve reaches `objective`, between two passes along the logarithm; its last pass if it never does."""
    falling = np.minimum.accumulate(np.asarray(curve, np.float64))
    return float(np.interp(-np.log(objective), -np.log(falling), np.arange(len(falling))))


def feature_distance(photo: np.ndarray, painted: np.ndarray) -> float:
    """See `Measured`; images are uint8 (height, width, 3)."""
    extract = _style_features()
    sides = zip(*(extract(image[None].astype(np.float32)) for image in (photo, painted)), strict=True)
    units = [[tf.math.l2_normalize(activation, axis=-1, epsilon=1e-10) for activation in side] for side in sides]
    return float(np.mean([tf.reduce_mean(tf.reduce_sum((a - b) ** 2, axis=-1)) for a, b in units]))


def _style_features() -> Callable:
    return features.load("vgg19", features.defaults("vgg19").style_layers)


def one_pixel_shift(paint: Callable[[np.ndarray], np.ndarray], photo: np.ndarray) -> float:
    """See `Measured`: both pictures show the same scene, the second from one pixel further right."""
    left, right = (paint(photo[:, i : photo.shape[1] - 1 + i]).astype(np.float32) for i in (0, 1))
    difference = np.abs(left[:, 1:] - right[:, :-1])
    return float(difference[_BORDER:-_BORDER, _BORDER:-_BORDER].mean())


def contact_sheet(networks: Sequence[tuple[Restyle, int]], photos: Sequence[Path], path: Path) -> None:
    """A JPEG of photographs (rows) untouched and in every style of each network (columns).

    Args:
        networks: each with its number of styles.
    """
    rows = [np.concatenate(list(_sheet_row(networks, photo)), axis=1) for photo in photos[:_SHEET_PHOTOS]]
    Image.fromarray(np.concatenate(rows)).save(path, quality=90)


def _sheet_row(networks: Sequence[tuple[Restyle, int]], path: Path) -> Iterator[np.ndarray]:
    photo = _square(images.read(path))
    yield photo
    for paint, styles in networks:
        for weights in np.eye(styles, dtype=np.float32):
            yield paint(photo[None], weights[None])[0]


def _square(image: np.ndarray) -> np.ndarray:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return images.resize(image[top : top + side, left : left + side], _SHEET_SIDE, _SHEET_SIDE)


def _paint_one(paint: Restyle, weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    return paint(image[None], weights)[0]


def _in_turn(names: Iterable[str]) -> Iterator[str]:
    names = list(names)
    while True:
        yield from names
