"""Style networks as `training.style.evaluation` sees them: a published version through the file that is served, and a
training run through Keras.

Both are painted by `serving.style.stylist`, with all that a request meets there. It lives here because it joins
`serving`, which runs the files, and `training`, which knows the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from imaging import images
from registry.repository import Repository
from reverie.errors import ToolkitError
from reverie.onnx_sessions import open_session
from serving.style.choice import StyleChooser, StyleInput
from serving.style.files import MODEL
from serving.style.parameters import StylizeParameters
from serving.style.stylist import Stylist
from serving.style.table import NAMES, WEIGHTS, StyleTable
from synthesis.style.network import StyleNetwork, build, restyle, restyle_as
from training.runs import Run
from training.style.evaluation.evaluate import Restyler
from training.style.train import StyleTraining, warm_start

DEFAULT_STRENGTH: float = StylizeParameters().strength

_Network = Callable[[np.ndarray, StyleInput], np.ndarray]
"""uint8 (1, height, width, 3) and a style to uint8 (1, height, width, 3)."""


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
    if (folder / NAMES).is_file():
        return of_graph(f"style/{folder.name}", folder / MODEL, StyleTable.read(folder))
    if (folder / "config.json").is_file():
        return _of_run(Run(folder))
    known = ", ".join(map(str, Repository(repository).versions("style"))) or "none"
    raise RestylerError(
        f"{name} is no style network; accepted: the number of a version in {repository} (there: {known}), its folder, "
        "or the folder of a training run"
    )


def of_graph(name: str, graph: Path, table: StyleTable) -> Restyler:
    """Return an exported network that runs in ONNX Runtime on the CPU.

    Args:
        table: its styles.
    """
    session = open_session(graph)
    return _restyler(name, table, lambda image, style: session.run(None, {"image": image, **style})[0])


def _of_run(run: Run) -> Restyler:
    """Also of one that is not finished: its last checkpoint."""
    network = build(StyleTraining.from_dict(run.config).network)
    warm_start(run, network)
    table = StyleTable.of_weights(network.config.styles)
    return _restyler(str(run.path), table, lambda image, style: restyle(network, image, style[WEIGHTS]))


def of_vectors(name: str, network: StyleNetwork, vectors: Mapping[str, np.ndarray]) -> Restyler:
    """Return a network in styles that are vectors, float32 (length,) each, by their names."""
    table = np.stack(list(vectors.values())).astype(np.float32)
    known = StyleTable.of_weights(tuple(vectors))
    return _restyler(name, known, lambda image, style: restyle_as(network, image, style[WEIGHTS] @ table))


def _restyler(name: str, table: StyleTable, network: _Network) -> Restyler:
    # No folder: the pictures do not say how they were made, and are too small for the tiles that read a file.
    nowhere = Path()
    chooser = StyleChooser(nowhere, lambda: nowhere, tables={nowhere: table})
    stylist = Stylist(lambda photo, style, client, folder: network(photo[None], style)[0], chooser)

    def paint(photo: np.ndarray, style: str, strength: float) -> np.ndarray:
        parameters = StylizeParameters(
            style=style, strength=strength, size=max(photo.shape), format="png", provenance=False
        )
        return images.decode(stylist.stylize(images.encode(photo, "png"), parameters))

    return Restyler(name, table.names, paint, lambda photo: network(photo[None], table.inputs()[0])[0])
