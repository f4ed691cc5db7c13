"""Stand-in for Triton's C++ ONNX Runtime backend, used only where `libtriton_onnxruntime.so` is absent.

Triton takes a folder `<backends>/<name>/model.py` as a Python-based backend. Configurations, batching,
metrics and model control are Triton's own; this file only runs `<version>/model.onnx`.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

MAX_ELEMENTS = 16_000_000
"""Largest input tensor that is run, in elements; a configuration may set another as a parameter."""


class TritonPythonModel:
    """One instance of one version of an ONNX model."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = (
            Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.onnx")
        )
        self.session = ort.InferenceSession(str(path), _options(config), providers=_providers(args))
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o["name"] for o in config["output"]]
        self.max_elements = int(_parameter(config, "max_input_elements", MAX_ELEMENTS))
        self.batches = config["max_batch_size"] > 0

    def execute(self, requests):
        feeds = [{name: _array(request, name) for name in self.inputs} for request in requests]
        accepted = [i for i, feed in enumerate(feeds) if self._refusal(feed) is None]
        results = dict(zip(accepted, self._run([feeds[i] for i in accepted]), strict=True))
        return [results.get(i) or _invalid(self._refusal(feed)) for i, feed in enumerate(feeds)]

    def _refusal(self, feed):
        for name, array in feed.items():
            if array.size > self.max_elements:
                return f"{name}: shape {list(array.shape)} has {array.size} elements; accepted: at most {self.max_elements}"
        return None

    def _run(self, feeds):
        """Responses to `feeds`, computed as one batch; if that fails, one by one, so that a bad input fails alone."""
        if not feeds:
            return []
        try:
            batch = (
                {name: np.concatenate([f[name] for f in feeds]) for name in self.inputs} if self.batches else feeds[0]
            )
            outputs = self.session.run(self.outputs, batch)
        except Exception as error:
            if len(feeds) > 1:
                return [response for feed in feeds for response in self._run([feed])]
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds[0].items())
            return [_invalid(f"the model cannot take {shapes}: {error}")]
        return [self._response(part) for part in self._split(outputs, feeds)]

    def _split(self, outputs, feeds):
        if not self.batches:
            return [outputs]
        borders = np.cumsum([len(f[self.inputs[0]]) for f in feeds])[:-1]
        return list(zip(*(np.split(o, borders) for o in outputs), strict=True))

    def _response(self, arrays):
        tensors = [pb_utils.Tensor(n, np.ascontiguousarray(a)) for n, a in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _array(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _invalid(message):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))


def _parameter(config, key, default):
    return config.get("parameters", {}).get(key, {}).get("string_value", default)


def _options(config):
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", 0))
    # Spinning threads take the processor from the other models of a small machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(args):
    if args["model_instance_kind"] == "GPU" and "CUDAExecutionProvider" in ort.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": int(args["model_instance_device_id"])}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
