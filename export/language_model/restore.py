"""A published language model back to a training run, to go on from where its own run is gone.

Reads the constants of `decode_float32.onnx` by the names that `export/language_model/decode.py` gives them. Only the
pre-norm architecture can be restored: the book's decode graph holds products of its weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import onnx
from onnx import numpy_helper

from language.tokenizer import load_tokenizer
from reverie.errors import ToolkitError
from training import loop
from training.language_model.pre_norm import PreNormConfig, PreNormLanguageModel
from training.language_model.train import KIND, LanguageModelTraining, build
from training.runs import Run


class RestoreError(ToolkitError):
    """A version cannot be restored; the message says why."""


def restore(version: Path, path: Path | None = None) -> Run:
    """A finished run with the weights of a published version, as they were rounded for it (float16).

    Args:
        version: a version's folder of `language_model`.
        path: the run's folder; see `Run.create`.

    Raises:
        RestoreError: there is no version, or it is of another architecture.
    """
    graph = version / "decode_float32.onnx"
    if not graph.exists():
        raise RestoreError(f"{version} holds no language model; see 'reverie models'")
    constants = _constants(graph)
    if "block_0/query_key_value/weight" not in constants:
        raise RestoreError(f"{version} is not of the preset reviews, whose weights alone are published as they are")
    keras.config.set_dtype_policy("float32")
    config = LanguageModelTraining(
        _sizes(onnx.load(graph, load_external_data=False), constants), architecture="pre_norm"
    )
    model = build(config)
    assert isinstance(model, PreNormLanguageModel)
    names = _names(model)
    loop.assign(model.variables, [constants[names[variable.path]] for variable in model.variables])
    run = Run.create(KIND, asdict(config), path)
    load_tokenizer(version).save(run.path)
    model.save_weights(run.weights)
    run.finish(json.loads((version / "manifest.json").read_text())["result"])
    return run


def _constants(graph: Path) -> dict[str, np.ndarray]:
    """All constants by name, large ones in float32 again."""
    tensors = onnx.load(graph).graph.initializer
    return {t.name.removesuffix("/float16"): numpy_helper.to_array(t).astype(np.float32) for t in tensors}


def _sizes(graph: onnx.ModelProto, constants: dict[str, np.ndarray]) -> PreNormConfig:
    vocabulary_size, embed_dim = constants["tokens"].shape
    caches = {i.name: i.type.tensor_type.shape for i in graph.graph.input if i.name.startswith("past/")}
    heads, positions = (caches["past/0/key"].dim[axis].dim_value for axis in (1, 2))
    layers, latent_dim = len(caches) // 2, constants["block_0/expand/weight"].shape[1]
    return PreNormConfig(vocabulary_size, positions, embed_dim, latent_dim, layers, heads)


def _names(model: PreNormLanguageModel) -> dict[str, str]:
    """The constant's name of every variable, by its path."""
    named = {"tokens": model.embedding.embeddings} | _norm("norm", model.norm)
    for i, block in enumerate(model.blocks):
        named |= _norm(f"block_{i}/attention_norm", block.attention_norm)
        named |= _norm(f"block_{i}/feed_forward_norm", block.feed_forward_norm)
        layers = {
            "query_key_value": block.attention.query_key_value,
            "projection": block.attention.projection,
            "expand": block.expand,
            "contract": block.contract,
        }
        named |= {f"block_{i}/{name}/weight": layer.kernel for name, layer in layers.items()}
    return {variable.path: name for name, variable in named.items()}


def _norm(name: str, norm: keras.layers.LayerNormalization) -> dict[str, keras.Variable]:
    return {f"{name}/gamma": norm.gamma, f"{name}/beta": norm.beta}
