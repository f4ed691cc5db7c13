"""The model of the preset `book`: the book's Transformer language model (listing 12-6 with the layers of chapter 11), without its leak.

Knows nothing about words; ids in, logits out. In Keras 3 the book's second attention receives no mask
and sees the words it should predict; here one explicit causal mask serves both attentions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of the model; the defaults are listing 12-6.

    Attributes:
        vocabulary_size: ids are below it.
        positions: longest input.
        embed_dim, latent_dim, num_heads: width, feed-forward width, heads of `embed_dim` each.
        dropout: share of the activations dropped in training after the embedding and in the decoder;
            the listing has none.
    """

    vocabulary_size: int = 15_000
    positions: int = 100
    embed_dim: int = 256
    latent_dim: int = 2048
    num_heads: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; accepted: 0 or more, below 1")


class PositionalEmbedding(layers.Layer):
    """Sum of a learned word vector and a learned position vector."""

    def __init__(self, vocabulary_size: int, positions: int, embed_dim: int):
        super().__init__()
        self.token_embeddings = layers.Embedding(vocabulary_size, embed_dim)
        self.position_embeddings = layers.Embedding(positions, embed_dim)

    def call(self, ids):
        """Map int (batch, time) to float (batch, time, embed_dim)."""
        positions = ops.arange(ops.shape(ids)[1])
        return self.token_embeddings(ids) + self.position_embeddings(positions)


class TransformerDecoder(layers.Layer):
    """Self-attention, attention to the embedded input, feed-forward; a residual and LayerNorm after each."""

    def __init__(self, embed_dim: int, latent_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.attention_1 = layers.MultiHeadAttention(num_heads, key_dim=embed_dim)
        self.attention_2 = layers.MultiHeadAttention(num_heads, key_dim=embed_dim)
        self.dense_proj = keras.Sequential([layers.Dense(latent_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm_1 = layers.LayerNormalization()
        self.layernorm_2 = layers.LayerNormalization()
        self.layernorm_3 = layers.LayerNormalization()
        self.dropout = layers.Dropout(dropout)

    def call(self, queries, memory, mask):
        """Decode `queries`, which look at `memory` where `mask` is true.

        Both attentions read `memory` (the embedded input), so one position can be decoded alone.

        Args:
            queries: float (batch, query_time, embed_dim).
            memory: float (batch, time, embed_dim).
            mask: bool (1 or batch, query_time, time).
        """
        *_, x = self.stages(queries, memory, mask)
        return x

    def stages(self, queries, memory, mask) -> Iterator:
        """Yield what each normalization makes of the arguments of a call."""
        x = self.layernorm_1(queries + self.dropout(self.attention_1(queries, memory, attention_mask=mask)))
        yield x
        x = self.layernorm_2(x + self.dropout(self.attention_2(x, memory, attention_mask=mask)))
        yield x
        yield self.layernorm_3(x + self.dropout(self.dense_proj(x)))


class LanguageModel(keras.Model):
    """Next-word logits at every position, each from the words up to it and no later one."""

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self.config = config
        self.embedding = PositionalEmbedding(config.vocabulary_size, config.positions, config.embed_dim)
        self.dropout = layers.Dropout(config.dropout)
        self.decoder = TransformerDecoder(config.embed_dim, config.latent_dim, config.num_heads, config.dropout)
        self.head = layers.Dense(config.vocabulary_size)

    def call(self, ids):
        """Map int (batch, time) to logits (batch, time, vocabulary)."""
        x = self.dropout(self.embedding(ids))
        return self.head(self.decoder(x, x, _causal(ids)))

    def stages(self, ids) -> Iterator[tuple[str, Any]]:
        """Yield what each layer but the head makes of ids, under the name that it has in the decode graph."""
        x = self.embedding(ids)
        yield "embedded", x
        for i, normed in enumerate(self.decoder.stages(x, x, _causal(ids))):
            yield f"norm_{i}", normed

    def next_token_logits(self, ids, lengths):
        """Return the logits after the last word of each row: what generation needs, without the other positions.

        Args:
            ids: int32 (batch, time), rows padded at the end.
            lengths: int32 (batch,), words in each row, 1 to time.

        Returns:
            float32 (batch, vocabulary).
        """
        x = self.embedding(ids)
        steps = ops.arange(ops.shape(ids)[1])
        seen = steps[None, None, :] < lengths[:, None, None]
        is_last = ops.cast(steps[None, :, None] == lengths[:, None, None] - 1, x.dtype)
        last = ops.sum(x * is_last, axis=1, keepdims=True)
        return self.head(self.decoder(last, x, seen))[:, 0]


def _causal(ids):
    """bool (1, time, time): which positions (second) each position (first) looks at."""
    steps = ops.arange(ops.shape(ids)[1])
    return (steps[:, None] >= steps[None, :])[None]


def build(config: LanguageModelConfig) -> LanguageModel:
    """Return a model with its variables made."""
    model = LanguageModel(config)
    model(ops.zeros((1, 2), "int32"))
    return model


def token_losses(targets, logits):
    """Return the negative log-likelihood in nats of each target: float32 like `targets`; 0 where a target is below 0 (padding)."""
    losses = ops.sparse_categorical_crossentropy(ops.maximum(targets, 0), ops.cast(logits, "float32"), from_logits=True)
    return losses * ops.cast(targets >= 0, "float32")


def crossentropy(targets, logits):
    """Return the mean negative log-likelihood in nats per word; targets below 0 are padding and do not count."""
    counted = ops.cast(targets >= 0, "float32")
    return ops.sum(token_losses(targets, logits)) / ops.maximum(ops.sum(counted), 1.0)
