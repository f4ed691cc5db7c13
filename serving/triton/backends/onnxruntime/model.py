"""Stand-in for Triton's C++ ONNX Runtime backend, used only where `libtriton_onnxruntime.so` is absent.

Triton takes a folder `<backends>/<name>/model.py` as a Python-based backend. Configurations, metrics and model control
are Triton's own; this file only runs `<version>/model.onnx`, one request after the other, from a queue of its own: while
Triton 2.51's batcher waits for an instance it misses that one has become free (docs/decisions.md). So a request that
fails never takes another of its batch with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from reverie.errors import InputError
from reverie.onnx_sessions import open_session
from serving.python_backend.base import UnaryModel
from serving.python_backend.request import InferenceRequest
from serving.python_backend.response import Outputs
from serving.triton.graph_inputs import Feeds, GraphInputs, Samples

MAX_ELEMENTS = 16_000_000
"""Largest input tensor that is run, in elements; a configuration may set another as a parameter."""


class TritonPythonModel(UnaryModel):
    """One instance of one version of an ONNX model.

    As many requests may wait as the parameter `max_waiting` says, or else as its batcher's queue would hold.
    """

    def limits(self) -> tuple[int, int]:
        policy = self.config.get("dynamic_batching", {}).get("default_queue_policy", {})
        return 1, self.setting("max_waiting", int(policy.get("max_queue_size", 0)) or self.max_waiting)

    def setup(self) -> None:
        args, file = self.args, self.config["default_model_filename"] or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / file
        self.session = open_session(
            path,
            _providers(args),
            threads=self.setting("intra_op_thread_count", 0),
            has_many_shapes=True,  # Pictures have.
            shares_machine=True,
        )
        self.inputs = GraphInputs(self.session.get_inputs(), Samples.read(path.parent, self.config))
        self.outputs = [o["name"] for o in self.config["output"]]
        self.max_elements = self.setting("max_input_elements", MAX_ELEMENTS)

    def answer(self, request: InferenceRequest) -> Outputs:
        feeds = {known.name: request.array(known.name) for known in self.inputs.inputs}
        self._check_elements(feeds)
        self.inputs.check(feeds)
        try:
            return dict(zip(self.outputs, self._run(feeds), strict=True))
        except Exception as error:
            raise self.inputs.failure(error, feeds, self._run) from None

    def _check_elements(self, feeds: Feeds) -> None:
        for name, array in feeds.items():
            if array.size > self.max_elements:
                raise InputError(
                    f"{name}: shape {list(array.shape)} has {array.size} elements; accepted: at most {self.max_elements}"
                )

    def _run(self, feeds: Feeds) -> list[np.ndarray]:
        return self.session.run(self.outputs, dict(feeds))


def _providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in ort.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
