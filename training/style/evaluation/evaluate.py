"""How good is a style network? Two axes, what is left of the photograph and how near it is to the painting, and the
surface beside them, on photographs that no training saw: `reverie eval style`.

Knows a network only as a function from a photograph to its painting, so that runs and served versions are measured by
the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from synthesis import images
from training.style.evaluation import faces as face_detection
from training.style.evaluation import surface
from training.style.evaluation.classifier import GUESSES, Classifier
from training.style.evaluation.faces import Box, FaceDetector
from training.style.evaluation.perception import Perceived, StyleStatistics, painting_statistics, perceive
from training.style.evaluation.surface import Window

Say = Callable[[str], None]


@dataclass(frozen=True)
class Restyler:
    """A network that is measured.

    Attributes:
        name: what the figures call it.
        styles: those it knows.
        paint: photograph uint8 (height, width, 3), name of a style and strength from 0 to 1 to uint8 of the same shape.
    """

    name: str
    styles: tuple[str, ...]
    paint: Callable[[np.ndarray, str, float], np.ndarray]


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
        guess: the classifier's first; faces: where they are; plain: a flat area. Each None where there is none.
        is_perceived: whether it is one of those that VGG19 looks at, which takes most of the time.
    """

    pixels: np.ndarray
    guess: int | None
    faces: tuple[Box, ...]
    plain: Window | None
    is_perceived: bool

    @classmethod
    def of(cls, pixels: np.ndarray, judges: Judges, is_perceived: bool) -> Photograph:
        """Ask the judges about uint8 (height, width, 3)."""
        guess = judges.classifier.guesses(pixels)[0] if judges.classifier else None
        found = judges.faces.faces(pixels, face_detection.SURE) if judges.faces else []
        return cls(pixels, guess, tuple(found), surface.plain_window(pixels), is_perceived)


@dataclass(frozen=True)
class Painting:
    """One photograph in one style, measured; None for what was not, or what its photograph has not.

    Attributes:
        recognised: see `Classifier`.
        faces_kept: how many of the photograph's faces are found again.
        ssim: structural similarity to the photograph, 1 for the same.
        border_bands, clipped, repetition, noise, shift_over_gradient: see `surface`.
    """

    photo: Photograph
    recognised: bool | None
    faces_kept: int
    ssim: float
    clipped: float
    border_bands: np.ndarray
    repetition: float | None
    noise: float | None
    perceived: Perceived | None
    shift_over_gradient: float | None


def measure(
    paint: surface.Paint, photo: Photograph, painting: Mapping[str, StyleStatistics], judges: Judges
) -> Painting:
    """Everything about one picture."""
    painted = paint(photo.pixels)
    flat = photo.plain.of(painted) if photo.plain else None
    return Painting(
        photo,
        recognised=None if judges.classifier is None else photo.guess in judges.classifier.guesses(painted)[:GUESSES],
        faces_kept=_faces_kept(photo, painted, judges),
        ssim=float(tf.image.ssim(tf.constant(photo.pixels), tf.constant(painted), 255)),
        clipped=surface.clipped(painted),
        border_bands=surface.border_bands(photo.pixels, painted),
        repetition=None if flat is None else surface.repetition(flat),
        noise=None if flat is None else surface.noise(flat),
        perceived=perceive(photo.pixels, painted, painting) if photo.is_perceived else None,
        shift_over_gradient=surface.shift_over_gradient(paint, photo.pixels) if photo.is_perceived else None,
    )


def _faces_kept(photo: Photograph, painted: np.ndarray, judges: Judges) -> int:
    if judges.faces is None or not photo.faces:
        return 0
    return face_detection.kept(photo.faces, judges.faces.faces(painted))


def look_at(paths: Sequence[Path], size: int, perceived: int, judges: Judges) -> list[Photograph]:
    """The photographs, with a longer side of at most `size` pixels; evenly spaced ones are perceived."""
    chosen = set(np.linspace(0, len(paths) - 1, min(perceived, len(paths))).round().astype(int).tolist())
    pixels = (images.fit_within(images.read(path), size) for path in paths)
    return [Photograph.of(each, judges, i in chosen) for i, each in enumerate(pixels)]


def evaluate(
    network: Restyler,
    photos: Sequence[Photograph],
    paintings: Mapping[str, Mapping[str, StyleStatistics]],
    strength: float,
    judges: Judges,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Every photograph in every style: each style's figures, and those of all (see `summary`).

    Args:
        paintings: of the styles to measure, as `painting_statistics` has them.

    Raises:
        ValueError: a painting is none of the network's styles.
    """
    unknown = sorted(set(paintings) - set(network.styles))
    if unknown or not paintings:
        raise ValueError(f"paintings {unknown} are no styles of {network.name}; accepted: {', '.join(network.styles)}")
    styles = {}
    for style, painting in paintings.items():
        paint = lambda photo, style=style: network.paint(photo, style, strength)  # noqa: E731
        styles[style] = figures([measure(paint, photo, painting, judges) for photo in photos])
        say(f"{network.name} {style}: {_line(styles[style])}")
    return {"network": network.name, "strength": strength, **summary(styles), "styles": styles}


def figures(painted: Sequence[Painting]) -> dict[str, Any]:
    """Of one style; a figure that nothing was measured for is None."""
    faces = sum(len(each.photo.faces) for each in painted)
    return {
        "recognised": _mean(each.recognised for each in painted),
        "faces_kept": sum(each.faces_kept for each in painted) / faces if faces else None,
        **_perceived([each.perceived for each in painted if each.perceived]),
        "ssim": _mean(each.ssim for each in painted),
        "shift_over_gradient": _mean(each.shift_over_gradient for each in painted),
        "repetition": _mean(each.repetition for each in painted),
        "noise": _mean(each.noise for each in painted),
        "border_band": float(np.abs(np.mean([each.border_bands for each in painted], axis=0)).max()),
        "clipped": _mean(each.clipped for each in painted),
    }


def _perceived(perceived: Sequence[Perceived]) -> dict[str, Any]:
    names = ("content_error", "style_error", "sliced_wasserstein")
    return {name: _mean_dict([getattr(each, name) for each in perceived]) for name in names}


def summary(styles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over styles; of `recognised` also the worst and every style's; of `border_band` the worst."""
    result = {name: _mean_figure([each[name] for each in styles.values()]) for name in next(iter(styles.values()))}
    by_style = {name: each["recognised"] for name, each in styles.items()}
    known = [share for share in by_style.values() if share is not None]
    result["recognised"] = {"mean": _mean(known), "worst": min(known, default=None), "by_style": by_style}
    result["border_band"] = max(each["border_band"] for each in styles.values())
    return result


def _mean_figure(values: Sequence[Any]) -> Any:
    return _mean_dict(values) if isinstance(values[0], Mapping) else _mean(values)


def _mean_dict(values: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    return {name: _mean(each[name] for each in values) for name in values[0]} if values else {}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _line(figures: Mapping[str, Any]) -> str:
    shown = {
        "content": figures["content_error"].get("block4_conv2"),
        "style": figures["style_error"].get("512"),
        **{
            name: figures[name]
            for name in ("recognised", "faces_kept", "shift_over_gradient", "repetition", "border_band")
        },
    }
    return ", ".join(f"{name} {'-' if value is None else format(value, '.3g')}" for name, value in shown.items())
