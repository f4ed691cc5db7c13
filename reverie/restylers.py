"""Style networks as `training.style.evaluation` sees them: a published version through its file that is served, and a
training run through Keras.

Both are painted by `serving.style.stylist`, with all that a request meets there. It lives here because it joins
`serving`, which runs the files, and `training`, which knows the measurements.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from export.repository import Repository
from serving.style.files import MODEL
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Network, Stylist
from synthesis import images
from training.runs import Run, RunError
from training.style.evaluation.evaluate import Restyler
from training.style.network import StyleNetwork, build, restyle
from training.style.train import StyleTraining, go_on_from

DEFAULT_STRENGTH: float = StylizeParameters().strength


class RestylerError(Exception):
    """What was named is no style network; the message says what is."""


def newest(repository: Path) -> str:
    """The number of the version that was published last.

    Raises:
        RestylerError: there is none.
    """
    versions = Repository(repository).versions("style")
    if not versions:
        raise RestylerError(f"{repository} holds no version of style; name a run, or another --repository")
    return str(versions[-1])


def restyler_of(name: str, repository: Path) -> Restyler:
    """The network of a version's number, a version's folder or a run's folder.

    Raises:
        RestylerError: it is none of them.
    """
    folder = Repository(repository).folder("style", int(name)) if name.isdigit() else Path(name)
    if (folder / "styles.json").is_file():
        return _of_version(folder)
    if (folder / "config.json").is_file():
        return _of_run(Run(folder))
    known = ", ".join(map(str, Repository(repository).versions("style")))
    raise RestylerError(
        f"{name} is no style network; accepted: a version of {repository} ({known}), its folder, or a run's"
    )


def _of_version(folder: Path) -> Restyler:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])

    def network(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return session.run(None, {"image": photo[None], "style_weights": weights[None]})[0][0]

    return _restyler(f"style/{folder.name}", Stylist(folder, network), network)


def _of_run(run: Run) -> Restyler:
    """Also of one that is not finished: its last checkpoint."""
    network = build(StyleTraining.from_dict(run.config).network)
    go_on_from(run, network)

    def paint(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return restyle(network, photo[None], weights[None])[0]

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / "styles.json").write_text(json.dumps(network.config.styles))
        (files / MODEL).touch()  # Only tiles of pictures that are larger than any here read it.
        return _restyler(str(run.path), Stylist(files, paint), paint)


def _restyler(name: str, stylist: Stylist, network: Network) -> Restyler:
    def paint(photo: np.ndarray, style: str, strength: float) -> np.ndarray:
        parameters = StylizeParameters(style=style, strength=strength, format="png", size=max(photo.shape))
        return images.decode(stylist.stylize(images.encode(photo, "png"), parameters))

    return Restyler(name, tuple(stylist.styles), paint)
