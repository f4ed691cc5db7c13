"""How good is a style network? Two axes, what is left of the photograph and how near it is to the painting, and the
surface beside them, on photographs that no training saw: `reverie eval style`.

Knows a network only as a function from a photograph to its painting, so that runs and served versions are measured by
the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from imaging import images
from reverie.errors import InputError
from reverie.progress import followed
from training.style.evaluation import faces as face_detection
from training.style.evaluation import surface
from training.style.evaluation.classifier import Classifier
from training.style.evaluation.faces import Box, FaceDetector
from training.style.evaluation.perception import CONTENT_LAYERS, Perceived, StyleStatistics, content_of, perceive
from training.style.evaluation.surface import Window

Say = Callable[[str], None]
Paintings = Mapping[str, Mapping[str, StyleStatistics]]
"""By style and by size; see `perception.painting_statistics`."""

CONTENT_AXIS, STYLE_AXIS = CONTENT_LAYERS[-1], "512"
"""The layer of the content error and the painting's size of the style error that stand for all in a line and a plot."""
CURVE_STRENGTHS = (0.25, 0.5, 0.75, 1.0)

_TIMED_SIDE, _TIMED_ROUNDS = 512, 10


class EvaluationError(InputError):
    """Networks, paintings and photographs that do not fit together; the message says what would."""


@dataclass(frozen=True)
class Restyler:
    """A network that is measured.

    Attributes:
        name: what the figures call it.
        styles: those it knows.
        paint: photograph uint8 (height, width, 3), name of a style and strength from 0 to 1 to uint8 of the same shape.
        network: the network alone, in its first style; what is timed.
    """

    name: str
    styles: tuple[str, ...]
    paint: Callable[[np.ndarray, str, float], np.ndarray]
    network: surface.Paint

    def in_style(self, style: str, strength: float) -> surface.Paint:
        """Return `paint` with a style and a strength."""
        return lambda photo: self.paint(photo, style, strength)


@dataclass(frozen=True)
class Judges:
    """Who looks at the pictures; one that is None is not asked, and its figures are null."""

    classifier: Classifier | None = None
    faces: FaceDetector | None = None


@dataclass(frozen=True)
class Photograph:
    """What is known of a photograph before anybody paints it.

    Attributes:
        pixels: uint8 (height, width, 3).
        guess: the classifier's first, None without one or if it has no idea.
        faces: where they are.
        plain: a flat area, None where there is none.
        content: its activations, where it is one of those that are measured closely, which takes most of the time.
    """

    pixels: np.ndarray
    guess: int | None
    faces: tuple[Box, ...]
    plain: Window | None
    content: tuple[np.ndarray, ...] | None

    @classmethod
    def of(cls, pixels: np.ndarray, judges: Judges, closely: bool) -> Photograph:
        """Ask the judges about uint8 (height, width, 3)."""
        guess = next(iter(judges.classifier.guesses(pixels)), None) if judges.classifier else None
        found = judges.faces.faces(pixels, face_detection.SURE) if judges.faces else []
        return cls(pixels, guess, tuple(found), surface.plain_window(pixels), content_of(pixels) if closely else None)


def look_at(paths: Sequence[Path], size: int, closely: int, judges: Judges) -> list[Photograph]:
    """Return the photographs, with a longer side of at most `size` pixels; `closely` of them, evenly spaced, with activations.

    Raises:
        EvaluationError: one is too small to be measured.
    """
    chosen = set(evenly(len(paths), closely))
    followed_paths = followed(paths, "looking at photographs", len(paths))
    return [Photograph.of(_read(path, size), judges, i in chosen) for i, path in enumerate(followed_paths)]


def _read(path: Path, size: int) -> np.ndarray:
    pixels = images.fit_within(images.read(path), size)
    height, width = pixels.shape[:2]
    if min(height, width) < surface.MIN_SIDE:
        raise EvaluationError(
            f"{path} has {width}x{height} pixels at size {size}; accepted: sides from {surface.MIN_SIDE}"
        )
    return pixels


def evenly(total: int, count: int) -> list[int]:
    """Return up to `count` of the numbers below `total`, the first and the last among them."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


@dataclass(frozen=True)
class Painted:
    """One photograph in one style, measured; None for what was not, or what its photograph has not.

    Attributes:
        recognised: whether the photograph's first guess is among the first five for the picture.
        faces_kept: how many of the photograph's faces are found again.
        ssim: structural similarity to the photograph, 1 for the same.
        closely: what takes longer.
        clipped, repetition, noise: see `surface`.
    """

    photo: Photograph
    recognised: bool | None
    faces_kept: int
    ssim: float
    clipped: float
    repetition: float | None
    noise: float | None
    closely: Closely | None

    @classmethod
    def of(
        cls, paint: surface.Paint, photo: Photograph, painting: Mapping[str, StyleStatistics], judges: Judges
    ) -> Painted:
        """Paint the photograph and measure the picture."""
        picture = paint(photo.pixels)
        flat = photo.plain.of(picture) if photo.plain else None
        return cls(
            photo,
            recognised=_recognised(photo, picture, judges.classifier),
            faces_kept=_faces_kept(photo, picture, judges.faces),
            ssim=float(tf.image.ssim(tf.constant(photo.pixels), tf.constant(picture), 255)),
            clipped=surface.clipped(picture),
            repetition=None if flat is None else surface.repetition(flat),
            noise=None if flat is None else surface.noise(flat),
            closely=None if photo.content is None else Closely.of(paint, photo, picture, painting),
        )


@dataclass(frozen=True)
class Closely:
    """What takes VGG19, or further pictures of the same photograph; see `perception` and `surface`."""

    perceived: Perceived
    border_bands: np.ndarray
    shift_over_gradient: float

    @classmethod
    def of(
        cls, paint: surface.Paint, photo: Photograph, picture: np.ndarray, painting: Mapping[str, StyleStatistics]
    ) -> Closely:
        """Measure a picture of a photograph whose activations are known."""
        assert photo.content is not None
        return cls(
            perceive(photo.content, picture, painting),
            surface.border_bands(paint, photo.pixels, picture),
            surface.shift_over_gradient(paint, photo.pixels),
        )


def _recognised(photo: Photograph, picture: np.ndarray, classifier: Classifier | None) -> bool | None:
    return None if classifier is None or photo.guess is None else photo.guess in classifier.guesses(picture)


def _faces_kept(photo: Photograph, picture: np.ndarray, detector: FaceDetector | None) -> int:
    if detector is None or not photo.faces:
        return 0
    return face_detection.kept(photo.faces, detector.faces(picture))


def evaluate(
    network: Restyler,
    photos: Sequence[Photograph],
    paintings: Paintings,
    strength: float,
    judges: Judges,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Paint every photograph in every style; return the figures of all together (see `summary`), and each style's.

    Args:
        paintings: of the styles to measure.

    Raises:
        EvaluationError: a painting is none of the network's styles.
    """
    check_styles(network, paintings)
    styles = {}
    for style, painting in paintings.items():
        measure = partial(Painted.of, network.in_style(style, strength), painting=painting, judges=judges)
        styles[style] = figures([measure(photo) for photo in photos])
        say(f"{network.name} {style}: {_line(styles[style])}")
    return {"network": network.name, "strength": strength, **summary(styles), "styles": styles}


def check_styles(network: Restyler, paintings: Iterable[str]) -> None:
    """Raises EvaluationError: a painting is none of the network's styles."""
    unknown = sorted(set(paintings) - set(network.styles))
    if unknown:
        raise EvaluationError(
            f"paintings {unknown} are no styles of {network.name}; accepted: {', '.join(network.styles)}"
        )


def figures(painted: Sequence[Painted]) -> dict[str, Any]:
    """Return one style's means over photographs; a figure without measurements is None."""
    faces = sum(len(each.photo.faces) for each in painted)
    closely = [each.closely for each in painted if each.closely]
    return {
        "recognised": _mean(each.recognised for each in painted),
        "faces_kept": sum(each.faces_kept for each in painted) / faces if faces else None,
        **_perceived([each.perceived for each in closely]),
        "ssim": _mean(each.ssim for each in painted),
        "shift_over_gradient": _mean(each.shift_over_gradient for each in closely),
        "repetition": _mean(each.repetition for each in painted),
        "noise": _mean(each.noise for each in painted),
        "border_band": _largest_band([each.border_bands for each in closely]),
        "clipped": _mean(each.clipped for each in painted),
    }


def _perceived(perceived: Sequence[Perceived]) -> dict[str, Any]:
    names = ("content_error", "style_error", "sliced_wasserstein")
    return {name: _mean_by_name([getattr(each, name) for each in perceived]) for name in names}


def _largest_band(bands: Sequence[np.ndarray]) -> float | None:
    """Of any border and channel: what is in one photograph's picture only averages out."""
    return float(np.abs(np.mean(bands, axis=0)).max()) if bands else None


def summary(styles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over styles; of `recognised` the worst and every style's too, of `border_band` the largest."""
    names = next(iter(styles.values()))
    columns = {name: [each[name] for each in styles.values()] for name in names}
    means = {name: (_mean_by_name if isinstance(names[name], Mapping) else _mean)(columns[name]) for name in names}
    return means | {
        "recognised": {
            "mean": means["recognised"],
            "worst": _best_of(min, columns["recognised"]),
            "by_style": dict(zip(styles, columns["recognised"], strict=True)),
        },
        "border_band": _best_of(max, columns["border_band"]),
    }


def curve(
    network: Restyler, photos: Sequence[Photograph], paintings: Paintings, say: Say = lambda line: None
) -> dict[str, list[dict[str, float]]]:
    """Measure both axes of each style at `CURVE_STRENGTHS`, means over those photographs that have activations."""
    say(f"{network.name}: from the photograph to the whole style")
    return {
        style: [
            {"strength": strength, **_axes(network.in_style(style, strength), photos, painting)}
            for strength in CURVE_STRENGTHS
        ]
        for style, painting in paintings.items()
    }


def _axes(
    paint: surface.Paint, photos: Sequence[Photograph], painting: Mapping[str, StyleStatistics]
) -> dict[str, float]:
    target = {STYLE_AXIS: painting[STYLE_AXIS]}
    found = [perceive(photo.content, paint(photo.pixels), target) for photo in photos if photo.content is not None]
    return {
        "content_error": float(np.mean([each.content_error[CONTENT_AXIS] for each in found])),
        "style_error": float(np.mean([each.style_error[STYLE_AXIS] for each in found])),
    }


def milliseconds(networks: Sequence[Restyler]) -> list[float]:
    """Return the best of `_TIMED_ROUNDS` pictures of 512x512 pixels, in turns: a slower second of the machine meets all."""
    photo = np.random.default_rng(0).integers(0, 256, (_TIMED_SIDE, _TIMED_SIDE, 3), np.uint8)
    for network in networks:
        network.network(photo)
    rounds = [[_seconds(network, photo) for network in networks] for _ in range(_TIMED_ROUNDS)]
    return [1e3 * min(times) for times in zip(*rounds, strict=True)]


def _seconds(network: Restyler, photo: np.ndarray) -> float:
    started = time.perf_counter()
    network.network(photo)
    return time.perf_counter() - started


def _mean_by_name(values: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return {name: _mean(each.get(name) for each in values) for name in (values[0] if values else ())}


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return float(np.mean(known)) if known else None


def _best_of(choose: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return choose(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _line(figures: Mapping[str, Any]) -> str:
    names = ("recognised", "faces_kept", "shift_over_gradient", "repetition", "border_band")
    shown = {
        "content": figures["content_error"].get(CONTENT_AXIS),
        "style": figures["style_error"].get(STYLE_AXIS),
        **{name: figures[name] for name in names},
    }
    return ", ".join(f"{name} {'-' if value is None else format(value, '.3g')}" for name, value in shown.items())
