"""Whether a version's answers are fit to take the place of the stable version's to the same inputs.

A version's own `recorded.npz` says what it answered at export, and so cannot say that this was any good: black pictures
are black there too. What can be said without knowing the model: numbers are finite and not all the same, a picture has
contrast and shows the photograph, as the stable version's does. A version that was trained again may differ in all else.
Knows nothing about servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

_BLANK = 1.0
"""Standard deviation of luminance, of 255, below which a picture shows nothing."""
_LEAST_CONTRAST = 0.2
"""Of the stable version's standard deviation. Between the shipped styles the ratio is 0.55 or more."""
_LEAST_ENTROPY = 0.25
"""Of the stable version's bits a pixel: room for an ink drawing, and none for specks on black."""
_SHOWN = 0.5
"""Correlation of luminance above which the stable version shows the photograph."""
_LEAST_SHOWN = 0.3
"""Correlation with the photograph, or with the stable version's picture. Between the shipped styles 0.59 or more."""
_CARD_SIDE = 128
_LUMINANCE = np.array([0.299, 0.587, 0.114])

Arrays = Mapping[str, np.ndarray]


def faults(inputs: Arrays, stable: Arrays, canary: Arrays) -> list[str]:
    """Why the canary's answers cannot take the place of the stable version's; nothing if they can.

    Args:
        inputs: what both were asked, the batch first.
        stable, canary: their outputs by name.
    """
    found = []
    for name, expected in stable.items():
        if name not in canary or canary[name].shape != expected.shape:
            shape = list(canary[name].shape) if name in canary else "nothing"
            found.append(f"{name}: answered {shape}, the stable version {list(expected.shape)}")
        elif is_picture(expected):
            photos = next((a for a in inputs.values() if is_picture(a) and a.shape == expected.shape), None)
            found += _picture_faults(name, photos, expected, canary[name])
        else:
            found += _number_faults(name, expected, canary[name])
    return found


def is_picture(array: np.ndarray) -> bool:
    """Whether an array is uint8 (batch, height, width, 3)."""
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3


def sample_picture() -> np.ndarray:
    """A picture that every style should show: waves of color, a disc and a square; uint8 (1, 128, 128, 3)."""
    y, x = np.mgrid[:_CARD_SIDE, :_CARD_SIDE] / _CARD_SIDE
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 4 * x), np.sin(9 * x * y + 1)]
    card = 128 + 80 * np.stack(waves, -1)
    card[(x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06] = (220, 60, 40)
    card[(np.abs(x - 0.25) < 0.15) & (np.abs(y - 0.75) < 0.15)] = (20, 30, 90)
    return card.astype(np.uint8)[None]


def _number_faults(name: str, stable: np.ndarray, canary: np.ndarray) -> Iterator[str]:
    if canary.dtype.kind == "f" and not np.isfinite(canary).all():
        yield f"{name}: holds NaN or infinity"
    elif canary.size > 1 and np.ptp(canary) <= 1e-3 * np.ptp(stable):
        yield f"{name}: is {canary.flat[0]:.4g} everywhere, the stable version's {stable.min():.4g} to {stable.max():.4g}"


def _picture_faults(name: str, photos: np.ndarray | None, stable: np.ndarray, canary: np.ndarray) -> Iterator[str]:
    for i in range(len(stable)):
        photo = None if photos is None else _luminance(photos[i])
        if fault := _picture_fault(photo, _luminance(stable[i]), _luminance(canary[i])):
            yield f"{name}: {fault}"
            return


def _picture_fault(photo: np.ndarray | None, stable: np.ndarray, canary: np.ndarray) -> str:
    """Of one picture's luminance, float (height, width) each."""
    deviation, expected = canary.std(), stable.std()
    if deviation < _BLANK <= (expected if photo is None else max(expected, photo.std())):
        return f"a picture of one color (luminance {canary.mean():.0f} of 255)"
    if deviation < _LEAST_CONTRAST * expected:
        return (
            f"its contrast is {deviation:.3g}, the stable version's {expected:.3g}; accepted: {_LEAST_CONTRAST} of it"
        )
    bits, usual = _entropy(canary), _entropy(stable)
    if bits < _LEAST_ENTROPY * usual:
        return f"it has {bits:.2g} bits a pixel, the stable version's {usual:.2g}; accepted: {_LEAST_ENTROPY} of it"
    if photo is None or _correlation(stable, photo) < _SHOWN:
        return ""
    shown = max(_correlation(canary, photo), _correlation(canary, stable))
    if shown < _LEAST_SHOWN:
        return f"it does not show the photograph (correlation {shown:.2f}; accepted: {_LEAST_SHOWN})"
    return ""


def _luminance(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) @ _LUMINANCE


def _entropy(luminance: np.ndarray) -> float:
    """Bits a pixel of the histogram of 256 levels."""
    share = np.bincount(np.rint(luminance).astype(int).ravel(), minlength=256) / luminance.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Magnitude of Pearson's: a negative shows the photograph too. 0 where one of them is constant."""
    deviations = one.std() * other.std()
    return abs(float(((one - one.mean()) * (other - other.mean())).mean() / deviations)) if deviations else 0.0
