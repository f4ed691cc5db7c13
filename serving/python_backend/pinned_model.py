"""The ONNX model that a Python model builds on: its stable version's files, and calls to that version.

The version is pinned when the Python model loads, so a vocabulary or a list of styles always belongs to
the weights that answer. Publishing loads the ONNX model first (both versions stay served), then this one.
A canary with the same vocabulary or styles gets its share of the calls; whoever prepares inputs by files of the version that
answers (`choose`) reads those of the canary then.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from reverie_client import headers
from reverie_client.labels import CANARY, Labels

from reverie.errors import InputError, Unavailable
from serving.python_backend import shared_memory
from serving.telemetry import model_metrics

_COMPANIONS = ("styles.json", "vocabulary.txt", "tokenizer.json")
"""Files that callers read beside the graph; a canary must have the same."""


class PinnedModel:
    """Model `name` beside the model whose `args` these are."""

    def __init__(self, args: dict[str, str], name: str):
        model = Path(args["model_repository"]).parent / name
        versions = {int(p.name): p for p in model.glob("*") if p.name.isdigit()}
        if not versions:
            raise FileNotFoundError(f"the model repository has no version of {name}; publish one with 'make export'")
        labels = Labels.read(model / "config.pbtxt")
        self.name = name
        self.folder = versions.get(labels.stable or 0) or versions[max(versions)]
        canary = versions.get(labels.versions.get(CANARY, 0))
        self._canary = canary
        self._labels = labels if canary and _companions(canary) == _companions(self.folder) else Labels()

    def choose(self) -> Path:
        """The folder of the version that is to answer a call: the pinned one, or for a share of the calls its canary."""
        version = self._labels.sample_version(random.random())
        return self._canary if self._canary and version == int(self._canary.name) else self.folder

    def __call__(
        self, inputs: dict[str, np.ndarray], output: str, client: str, folder: Path | None = None
    ) -> tuple[np.ndarray, int]:
        """Run a version through Triton (business logic scripting), where its batcher applies.

        Args:
            client: on whose behalf; the clients take turns there too.
            folder: of the version, as `choose` gave it; by default it is chosen now.

        Returns:
            The output, and the number of the version that gave it: the pinned one or its canary.

        Raises:
            Unavailable: the model refused, for example because its queue is full.
            InputError: the input will never fit into the server's shared memory.
            RuntimeError: it failed.
        """
        version = int((folder or self.choose()).name)
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            model_version=version,
            requested_output_names=[output],
            inputs=[pb_utils.Tensor(n, a) for n, a in inputs.items()],
            **_introduction(client),
        )
        response = request.exec()
        if response.has_error():
            error = response.error()
            if shared_memory.TOO_LARGE in error.message():  # Its code arrives here as INTERNAL.
                raise InputError(error.message())
            failed = error.code() == pb_utils.TritonError.INTERNAL
            raise (RuntimeError if failed else Unavailable)(f"{self.name}: {error.message()}")
        return pb_utils.get_output_tensor_by_name(response, output).as_numpy(), version


def _introduction(client: str) -> dict[str, Any]:
    """For whom the sibling is called: the client, and the request that this thread answers, under its own id."""
    said, request = {headers.CLIENT: client} if client else {}, model_metrics.current()
    if request is None:
        return {"parameters": said}
    if request.place:
        said[headers.TRACE_PARENT] = str(request.place)
    return {"request_id": request.identity.request_id, "parameters": said}


def _companions(folder: Path) -> list[bytes | None]:
    return [(folder / name).read_bytes() if (folder / name).exists() else None for name in _COMPANIONS]
