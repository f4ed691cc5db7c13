"""Decode graphs of both language models: the next token's logits from one new token and a cache.

Contract, for `serving.text.decoder`: `token_ids` and `positions` int32 (batch, tokens) are new tokens and
where they stand; `seqlens_k` int32 (batch,) is each row's last position, `total_sequence_length` int32 () one
more than the largest of them; `past/<cache>` (batch, heads, longest, head size) holds what earlier tokens left
there. Outputs are `logits` float32 (batch, tokens, padded vocabulary), `maxima` (their largest in groups of
`FINE_GROUP` columns, for the sampler) and `present/<cache>`, to be bound to the
memory of `past/<cache>`: ONNX Runtime's GroupQueryAttention then adds to it in place. A name `present/<cache>#n`
is the same memory once more. The prefill graph is the decode graph without the parts that only logits need.

Rows have lengths of their own; more than one token a row needs a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import onnx
from onnx import TensorProto

from export.onnx.builder import MICROSOFT, Graph, Linear, value
from language.sampling import FINE_GROUP, padded_width
from training.language_model.model import LanguageModel
from training.language_model.pre_norm import EPSILON, PreNormLanguageModel, rotary_tables

LinearKind = Callable[..., str]
"""`FloatLinear` or `Int8Linear`."""

_BOOK_EPSILON = 1e-3
"""Keras' default for LayerNormalization, which the book uses."""


@dataclass
class Decoding:
    """A decode graph in the making.

    Attributes:
        linear: how linear layers compute.
        prefill: leave out what only logits need.
        graph: nodes so far.
        inputs_of: the input tensor of every linear layer, for calibration.
        caches: shape (heads, longest, head size) by name.
        presents: outputs that share a cache's memory, in order.
    """

    linear: LinearKind
    prefill: bool = False
    graph: Graph = field(default_factory=Graph)
    inputs_of: dict[str, str] = field(default_factory=dict)
    caches: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    presents: list[str] = field(default_factory=list)

    def apply(self, layer: Linear, x: str, relu: bool = False) -> str:
        """A linear layer."""
        self.inputs_of[layer.name] = x
        return self.linear(self.graph, x, layer, relu=relu)

    def attention(self, name: str, query: str, key: str, value_: str, keys: str, values: str, **attributes) -> str:
        """Attention of the new tokens to the caches `keys` and `values`, which get the new keys and values.

        Args:
            keys, values: names of caches; the same where keys and values are the same.
            attributes: of GroupQueryAttention.
        """
        rotary = [f"{table}_table" for table in ("cosine", "sine")] if attributes.get("do_rotary") else []
        inputs = [query, key, value_, f"past/{keys}", f"past/{values}", "seqlens_k", "total_sequence_length", *rotary]
        outputs = [name, self._present(keys), self._present(values)]
        return self.graph.op("GroupQueryAttention", *inputs, name=name, outputs=outputs, domain=MICROSOFT, **attributes)

    def _present(self, cache: str) -> str:
        taken = sum(p.split("#")[0] == f"present/{cache}" for p in self.presents)
        self.presents.append(f"present/{cache}" + (f"#{taken}" if taken else ""))
        return self.presents[-1]

    def head(self, x: str, layer: Linear) -> None:
        """Logits and their groups' maxima, in float32 whatever the graph computes in."""
        logits = self.apply(layer, x)
        if self.graph.float_type is np.float32:
            # No node of its own: it would copy the largest tensor there is.
            self.graph.nodes[-1].output[0] = logits = "logits"
        else:
            logits = self.graph.op("Cast", logits, name="logits", to=TensorProto.FLOAT)
        shape = self.graph.constant("groups", np.array([0, 0, -1, FINE_GROUP], np.int64))
        axis = self.graph.constant("group_axis", np.array([3], np.int64))
        grouped = self.graph.op("Reshape", logits, shape, name="grouped_logits")
        self.graph.op("ReduceMax", grouped, axis, name="maxima", keepdims=0)

    def model(self, name: str, width: int, probes: Sequence[str] = ()) -> onnx.ModelProto:
        """The finished graph; `probes` are tensors to add to the outputs."""
        floats, ints = self.graph.element_type, TensorProto.INT32
        used = {i for node in self.graph.nodes for i in node.input}
        inputs = [value("token_ids", ints, ["batch", "tokens"])]
        inputs += [value("positions", ints, ["batch", "tokens"])] if "positions" in used else []
        inputs += [value("seqlens_k", ints, ["batch"]), value("total_sequence_length", ints, [])]
        inputs += [value(f"past/{cache}", floats, ["batch", *shape]) for cache, shape in self.caches.items()]
        sizes = {} if self.prefill else {"logits": width, "maxima": width // FINE_GROUP}
        logits = [value(name, TensorProto.FLOAT, ["batch", "tokens", size]) for name, size in sizes.items()]
        shapes = {f"present/{cache}": shape for cache, shape in self.caches.items()}
        presents = [value(p, floats, ["batch", *shapes[p.split("#")[0]]]) for p in self.presents]
        extra = [value(p, floats, ["batch", "tokens", None]) for p in dict.fromkeys(probes)]
        return self.graph.model(name, inputs, [*logits, *presents, *extra])


def build(model: LanguageModel | PreNormLanguageModel, decoding: Decoding) -> Decoding:
    """Fill `decoding` with the graph of a trained model."""
    if isinstance(model, LanguageModel):
        _book(model, decoding)
    else:
        _pre_norm(model, decoding)
    return decoding


def _book(model: LanguageModel, decoding: Decoding) -> None:
    """Listing 12-6 with one shortcut, exact because the model has one block and both attentions read `e`.

    Keys and values of both attentions are linear in `e`, the embedded token with its position. A score
    `(e W_q + b_q) (e' W_k + b_k)^T` is `(e W_q W_k^T + b_q W_k^T) e'^T` plus a term that is the same for all
    `e'` and so leaves the softmax as it is; a value's projection is `e' W_v W_o`. Both products are computed
    once, and the one cache that is left holds `e`: 256 numbers a token instead of 2,048.
    """
    graph, config = decoding.graph, model.config
    decoding.caches["embedding"] = (1, config.positions, config.embed_dim)
    word = graph.op("Gather", graph.stored("words", _array(model.embedding.token_embeddings.embeddings)), "token_ids", name="word")  # fmt: skip
    place = graph.op("Gather", graph.stored("places", _array(model.embedding.position_embeddings.embeddings)), "positions", name="place")  # fmt: skip
    embedded = x = graph.op("Add", word, place, name="embedded")
    decoder = model.decoder
    attributes = {"num_heads": config.num_heads, "kv_num_heads": 1, "scale": config.embed_dim**-0.5}
    for i, (attention, norm) in enumerate(
        ((decoder.attention_1, decoder.layernorm_1), (decoder.attention_2, decoder.layernorm_2))
    ):
        query, output = _absorbed(attention, f"attention_{i}")
        mixed = decoding.attention(f"attention_{i}", decoding.apply(query, x), embedded, embedded, "embedding", "embedding", **attributes)  # fmt: skip
        if decoding.prefill:
            return
        x = _add_and_norm(graph, x, decoding.apply(output, mixed), f"norm_{i}", norm)
    expand, contract = decoder.dense_proj.layers
    hidden = decoding.apply(Linear("expand", _array(expand.kernel), _array(expand.bias)), x)
    change = decoding.apply(Linear("contract", _array(contract.kernel), _array(contract.bias)), hidden, relu=True)
    x = _add_and_norm(graph, x, change, "norm_2", decoder.layernorm_3)
    width = padded_width(config.vocabulary_size)
    decoding.head(x, Linear("head", _array(model.head.kernel), _array(model.head.bias), width=width))


def _absorbed(attention: keras.layers.MultiHeadAttention, name: str) -> tuple[Linear, Linear]:
    """The query layer with the key's weights in it, and the output layer with the value's."""
    query, key, value_, output = (
        (_array(dense.kernel).astype(np.float64), _array(dense.bias).astype(np.float64))
        for dense in (attention.query_dense, attention.key_dense, attention.value_dense, attention.output_dense)
    )
    width = key[0].shape[0]
    to_query = np.einsum("dhk,ehk->dhe", query[0], key[0]).reshape(width, -1)
    query_bias = np.einsum("hk,ehk->he", query[1], key[0]).reshape(-1)
    to_output = np.einsum("ehk,hkd->hed", value_[0], output[0]).reshape(-1, width)
    output_bias = np.einsum("hk,hkd->d", value_[1], output[0]) + output[1]
    return (
        Linear(f"{name}/query", to_query.astype(np.float32), query_bias.astype(np.float32), derived=True),
        Linear(f"{name}/output", to_output.astype(np.float32), output_bias.astype(np.float32), derived=True),
    )


def _add_and_norm(graph: Graph, x: str, change: str, name: str, norm: keras.layers.LayerNormalization) -> str:
    total = graph.op("Add", x, change, name=f"{name}/sum")
    return graph.layer_norm(total, name, _array(norm.gamma), _array(norm.beta), _BOOK_EPSILON)


def _pre_norm(model: PreNormLanguageModel, decoding: Decoding) -> None:
    """`training.language_model.pre_norm`, with a cache of keys and values for every block."""
    graph, config = decoding.graph, model.config
    cosine, sine = rotary_tables(config.positions, config.head_dim)
    graph.floats("cosine_table", cosine)
    graph.floats("sine_table", sine)
    width = padded_width(config.vocabulary_size)
    embeddings = _array(model.embedding.embeddings)
    x = graph.op("Gather", graph.stored("tokens", embeddings), "token_ids", name="embedded")
    attributes = {
        "num_heads": config.num_heads,
        "kv_num_heads": config.num_heads,
        "scale": config.head_dim**-0.5,
        "do_rotary": 1,
    }
    for i, block in enumerate(model.blocks):
        name = f"block_{i}"
        for part in ("key", "value"):
            decoding.caches[f"{i}/{part}"] = (config.num_heads, config.positions, config.head_dim)
        normed = _norm(graph, x, f"{name}/attention_norm", block.attention_norm)
        kernel = _array(block.attention.query_key_value.kernel)
        projected = decoding.apply(Linear(f"{name}/query_key_value", kernel), normed)
        mixed = decoding.attention(f"{name}/attention", projected, "", "", f"{i}/key", f"{i}/value", **attributes)
        if decoding.prefill and i + 1 == config.layers:
            return
        change = decoding.apply(Linear(f"{name}/projection", _array(block.attention.projection.kernel)), mixed)
        x = graph.op("Add", x, change, name=f"{name}/attended")
        normed = _norm(graph, x, f"{name}/feed_forward_norm", block.feed_forward_norm)
        hidden = decoding.apply(Linear(f"{name}/expand", _array(block.expand.kernel)), normed)
        hidden = graph.op("Gelu", hidden, name=f"{name}/gelu", domain=MICROSOFT)
        change = decoding.apply(Linear(f"{name}/contract", _array(block.contract.kernel)), hidden)
        x = graph.op("Add", x, change, name=f"{name}/out")
    x = _norm(graph, x, "norm", model.norm)
    decoding.head(x, Linear("head", embeddings.T, np.zeros(len(embeddings), np.float32), shared="tokens", width=width))


def _norm(graph: Graph, x: str, name: str, norm: keras.layers.LayerNormalization) -> str:
    return graph.layer_norm(x, name, _array(norm.gamma), _array(norm.beta), EPSILON)


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float32)
