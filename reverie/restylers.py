"""Style networks as `training.style.evaluation` sees them: a published version through the file that is served, and a
training run through Keras.

Both are painted by `serving.style.stylist`, with all that a request meets there. It lives here because it joins
`serving`, which runs the files, and `training`, which knows the measurements.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from imaging import images
from registry.repository import Repository
from reverie.errors import ToolkitError
from reverie.onnx_sessions import open_session
from serving.style.files import MODEL
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Stylist
from synthesis.style.network import StyleNetwork, build, restyle, restyle_as
from training.runs import Run
from training.style.evaluation.evaluate import Restyler
from training.style.train import StyleTraining, warm_start

DEFAULT_STRENGTH: float = StylizeParameters().strength

_Network = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""uint8 (1, height, width, 3) and float32 (1, styles) to uint8 (1, height, width, 3)."""


class RestylerError(ToolkitError):
    """What was named is no style network; the message says what is."""


def newest(repository: Path) -> str:
    """Return the number of the version that was published last.

    Raises:
        RestylerError: there is none.
    """
    versions = Repository(repository).versions("style")
    if not versions:
        raise RestylerError(f"{repository} holds no version of style; name a run (--run), or another --repository")
    return str(versions[-1])


def restyler_of(name: str, repository: Path) -> Restyler:
    """Return the network of a version's number, a version's folder, or a run's folder.

    Raises:
        RestylerError: it is none of them.
        RunError: a run without any weights yet.
    """
    folder = Repository(repository).folder("style", int(name)) if name.isdecimal() else Path(name)
    if (folder / "styles.json").is_file():
        return of_graph(f"style/{folder.name}", folder / MODEL, json.loads((folder / "styles.json").read_text()))
    if (folder / "config.json").is_file():
        return _of_run(Run(folder))
    known = ", ".join(map(str, Repository(repository).versions("style"))) or "none"
    raise RestylerError(
        f"{name} is no style network; accepted: the number of a version in {repository} (there: {known}), its folder, "
        "or the folder of a training run"
    )


def of_graph(name: str, graph: Path, styles: list[str]) -> Restyler:
    """Return an exported network that runs in ONNX Runtime on the CPU.

    Args:
        styles: in the order of its weights.
    """
    session = open_session(graph)
    return _restyler(
        name, styles, lambda image, weights: session.run(None, {"image": image, "style_weights": weights})[0]
    )


def _of_run(run: Run) -> Restyler:
    """Also of one that is not finished: its last checkpoint."""
    network = build(StyleTraining.from_dict(run.config).network)
    warm_start(run, network)
    return _restyler(str(run.path), network.config.styles, lambda image, weights: restyle(network, image, weights))


def of_vectors(name: str, network: StyleNetwork, vectors: Mapping[str, np.ndarray]) -> Restyler:
    """Return a network in styles that are vectors, float32 (length,) each, by their names."""
    table = np.stack(list(vectors.values())).astype(np.float32)
    return _restyler(name, tuple(vectors), lambda image, weights: restyle_as(network, image, weights @ table))


def _restyler(name: str, styles: list[str] | tuple[str, ...], network: _Network) -> Restyler:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "styles.json").write_text(json.dumps(styles))
        # No number: the pictures do not say how they were made, and are too small for the tiles that read a file.
        stylist = Stylist(Path(folder), lambda photo, weights, client: (network(photo[None], weights[None])[0], 0))

    def paint(photo: np.ndarray, style: str, strength: float) -> np.ndarray:
        parameters = StylizeParameters(
            style=style, strength=strength, size=max(photo.shape), format="png", provenance=False
        )
        return images.decode(stylist.stylize(images.encode(photo, "png"), parameters))

    first = np.eye(len(styles), dtype=np.float32)[:1]
    return Restyler(name, tuple(styles), paint, lambda photo: network(photo[None], first)[0])
