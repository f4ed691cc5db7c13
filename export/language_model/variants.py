"""The precisions a language model is served in, and what each costs in perplexity.

All graphs of a version share one file of weights: float16 for the large ones, whatever a graph computes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx.external_data_helper import set_external_data

from export.language_model.decode import Decoding, build
from export.onnx.builder import FloatLinear, Graph, Int8Linear, Range
from export.onnx.conversion import weights_hash
from language.sampling import padded_width
from reverie.onnx_sessions import open_session
from reverie.progress import followed
from training.language_model.model import LanguageModel
from training.language_model.pre_norm import PreNormLanguageModel

PRECISIONS = ("float32", "float16", "int8")
WEIGHTS_FILE = "weights.bin"
_EXTERNAL_FROM = 1024
_ALIGNMENT = 4096
"""Offsets at which ONNX Runtime can map a file into memory."""


def decoding_of(precision: str, ranges: Mapping[str, Range], prefill: bool = False) -> Decoding:
    """An empty decode graph that computes in `precision`."""
    linear = Int8Linear(ranges) if precision == "int8" else FloatLinear()
    return Decoding(linear, prefill, Graph(np.float16 if precision == "float16" else np.float32))


def graphs(model: LanguageModel | PreNormLanguageModel, ranges: Mapping[str, Range]) -> dict[str, onnx.ModelProto]:
    """Every precision's decode and prefill graph, by file name without suffix."""
    width = padded_width(model.config.vocabulary_size)
    made = {}
    for precision in PRECISIONS:
        for kind in ("decode", "prefill"):
            decoding = build(model, decoding_of(precision, ranges, prefill=kind == "prefill"))
            graph = decoding.model("unnamed", width)
            # Named after its weights, for the same reason as in `export.onnx.conversion.convert`.
            graph.graph.name = f"language_model_{kind}_{precision}_{weights_hash(graph)}"
            made[f"{kind}_{precision}"] = graph
    return made


def calibrate(model: LanguageModel | PreNormLanguageModel, rows: np.ndarray) -> dict[str, Range]:
    """What every linear layer's input is on real text.

    Args:
        rows: int (sequences, tokens), whole rows of the model's own data, without padding.
    """
    decoding = build(model, decoding_of("float32", {}))
    width = padded_width(model.config.vocabulary_size)
    runner = open_session(decoding.model("calibration", width, probes=list(decoding.inputs_of.values())))
    found: dict[str, Range] = {}
    for row in followed(rows, "calibrating int8, rows", len(rows)):
        feeds = sequence_feeds(runner, row[None])
        probed = dict(zip(decoding.inputs_of, runner.run(list(decoding.inputs_of.values()), feeds), strict=True))
        for name, array in probed.items():
            known = found.get(name, Range(0.0, 0.0))
            found[name] = Range(min(known.low, float(array.min())), max(known.high, float(array.max())))
    return found


def sequence_feeds(runner: ort.InferenceSession, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of a decode graph that take a whole sequence, int (1, tokens), in at once."""
    length = tokens.shape[1]
    feeds = {
        "token_ids": tokens.astype(np.int32),
        "positions": np.arange(length, dtype=np.int32)[None],
        "seqlens_k": np.array([length - 1], np.int32),
        "total_sequence_length": np.array(length, np.int32),
    }
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    caches = {i.name: np.zeros((1, *i.shape[1:]), types[i.type]) for i in runner.get_inputs() if "past/" in i.name}
    return {i.name: feeds[i.name] for i in runner.get_inputs() if i.name in feeds} | caches


def perplexity(path: Path, rows: np.ndarray, vocabulary_size: int, ignored: int | None) -> float:
    """exp of the mean negative log-likelihood of every next token of `rows`, through a decode graph's file.

    Args:
        rows: int (sequences, tokens); what follows `ignored` (padding) does not count.
    """
    runner = open_session(path)
    total, count = 0.0, 0
    for row in followed(rows, f"measuring {path.stem}, held-out rows", len(rows)):
        logits = runner.run(["logits"], sequence_feeds(runner, row[None, :-1]))[0][0, :, :vocabulary_size]
        logits = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        counted = np.ones(len(row) - 1, bool) if ignored is None else row[:-1] != ignored
        losses = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(row) - 1), row[1:]]
        total, count = total + float(losses[counted].sum()), count + int(counted.sum())
    return float(np.exp(total / count))


def save(models: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Write `<name>.onnx` for every model, and their large constants, each once, into `weights.bin`.

    Args:
        models: changed: their large constants then lie outside.
    """
    offsets: dict[bytes, int] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for model in models.values():
            for tensor in _large(model.graph.initializer):
                data = tensor.raw_data
                if data not in offsets:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    offsets[data] = file.tell()
                    file.write(data)
                set_external_data(tensor, WEIGHTS_FILE, offset=offsets[data], length=len(data))
                tensor.ClearField("raw_data")
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def _large(tensors: Sequence[onnx.TensorProto]) -> list[onnx.TensorProto]:
    return [t for t in tensors if t.HasField("raw_data") and len(t.raw_data) >= _EXTERNAL_FROM]
