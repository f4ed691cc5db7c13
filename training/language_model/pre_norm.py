"""The language model of the preset `reviews`: pre-norm blocks, rotary positions, tied embeddings.

Departs from the book's decoder (listing 12-6) in all three, and has no attention to the embedded input.
Knows nothing about tokenization, purely token ids; uses `keras.ops` only, so it runs on every backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

ROTARY_BASE = 10_000.0
EPSILON = 1e-5
INITIAL_STD = 0.02


@dataclass(frozen=True)
class PreNormConfig:
    """Sizes of the model; the defaults are those of the preset `reviews`.

    Attributes:
        vocabulary_size: ids are below it.
        positions: longest input.
        embed_dim, latent_dim: width and feed-forward width.
        layers, num_heads: blocks, and heads of `embed_dim / num_heads` each in a block.
        dropout: share of the activations dropped after the embedding and at the end of each branch.
    """

    vocabulary_size: int = 8_192
    positions: int = 256
    embed_dim: int = 256
    latent_dim: int = 1024
    layers: int = 4
    num_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.embed_dim % (2 * self.num_heads):
            raise ValueError(f"embed_dim is {self.embed_dim}; accepted: a multiple of 2 x num_heads ({self.num_heads})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; accepted: 0 or more, below 1")

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def residual_std(self) -> float:
        """Initial deviation of the projections that add to the residual stream (GPT-2, section 2.3)."""
        return INITIAL_STD / (2 * self.layers) ** 0.5


def rotary_tables(positions: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine and sine of `position * base^(-2i / head_dim)`: two float32 (positions, head_dim / 2)."""
    frequencies = ROTARY_BASE ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(positions)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x, cosine, sine):
    """Turn each pair (i, i + head_dim / 2) of `x` by its position's angle (Su et al. 2021, in halves).

    Args:
        x: float (batch, heads, time, head_dim).
        cosine, sine: float (time, head_dim / 2).
    """
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _dense(units: int, std: float = INITIAL_STD) -> layers.Dense:
    return layers.Dense(units, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=std))


class CausalSelfAttention(layers.Layer):
    """Every position looks at itself and those before it; queries and keys carry their position by rotation."""

    def __init__(self, config: PreNormConfig):
        super().__init__()
        self.config = config
        self.query_key_value = _dense(3 * config.embed_dim)
        self.projection = _dense(config.embed_dim, config.residual_std)
        self.cosine, self.sine = rotary_tables(config.positions, config.head_dim)

    def call(self, x):
        """Map float (batch, time, embed_dim) to the same shape."""
        time = ops.shape(x)[1]
        query, key, value = self._heads(self.query_key_value(x), time)
        cosine, sine = (ops.convert_to_tensor(table, x.dtype)[:time] for table in (self.cosine, self.sine))
        query = rotate(query, cosine, sine) * self.config.head_dim**-0.5
        scores = ops.cast(ops.matmul(query, ops.swapaxes(rotate(key, cosine, sine), -1, -2)), "float32")
        steps = ops.arange(time)
        scores = scores + ops.where(steps[:, None] >= steps[None, :], 0.0, -1e9)
        mixed = ops.matmul(ops.cast(ops.softmax(scores), x.dtype), value)
        return self.projection(ops.reshape(ops.swapaxes(mixed, 1, 2), (-1, time, self.config.embed_dim)))

    def _heads(self, projected, time):
        """(batch, time, 3 * embed_dim) to three (batch, heads, time, head_dim)."""
        split = ops.reshape(projected, (-1, time, 3, self.config.num_heads, self.config.head_dim))
        return ops.unstack(ops.transpose(split, (2, 0, 3, 1, 4)), 3)


class Block(layers.Layer):
    """Attention, then feed-forward, each on the normalized stream and added to it."""

    def __init__(self, config: PreNormConfig):
        super().__init__()
        self.attention_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = layers.LayerNormalization(epsilon=EPSILON)
        self.expand = _dense(config.latent_dim)
        self.contract = _dense(config.embed_dim, config.residual_std)
        self.dropout = layers.Dropout(config.dropout)

    def call(self, x):
        """Map float (batch, time, embed_dim) to the same shape."""
        *_, x = self.stages(x)
        return x

    def stages(self, x) -> Iterator:
        """Yield the stream after attention, and after the feed-forward layers."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        yield x
        hidden = self.expand(self.feed_forward_norm(x))
        # GELU by its definition: TensorFlow's own is made of an operation that ONNX does not have.
        hidden = 0.5 * hidden * (1.0 + ops.erf(hidden * 0.5**0.5))
        yield x + self.dropout(self.contract(hidden))


class PreNormLanguageModel(keras.Model):
    """Next-token logits at every position, each from the tokens up to it and no later one.

    GELU is the exact one (with erf).
    """

    def __init__(self, config: PreNormConfig):
        super().__init__()
        self.config = config
        self.embedding = layers.Embedding(
            config.vocabulary_size, config.embed_dim, keras.initializers.RandomNormal(stddev=INITIAL_STD)
        )
        self.dropout = layers.Dropout(config.dropout)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.norm = layers.LayerNormalization(epsilon=EPSILON)

    def call(self, ids):
        """Map int (batch, time) to logits (batch, time, vocabulary)."""
        return self._logits(self._hidden(ids))

    def next_token_logits(self, ids, lengths):
        """Return the logits after the last token of each row: what generation needs.

        Args:
            ids: int32 (batch, time), rows padded at the end with anything.
            lengths: int32 (batch,), tokens in each row, 1 to time.

        Returns:
            float (batch, vocabulary).
        """
        hidden = self._hidden(ids)
        last = ops.take_along_axis(hidden, ops.reshape(lengths - 1, (-1, 1, 1)), axis=1)
        return self._logits(last)[:, 0]

    def stages(self, ids) -> Iterator[tuple[str, Any]]:
        """Yield what each layer but the head makes of ids, under the name that it has in the decode graph."""
        x = self.embedding(ids)
        yield "embedded", x
        for i, block in enumerate(self.blocks):
            attended, x = block.stages(x)
            yield f"block_{i}/attended", attended
            yield f"block_{i}/out", x
        yield "norm", self.norm(x)

    def _hidden(self, ids):
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _logits(self, hidden):
        return ops.matmul(hidden, ops.transpose(self.embedding.embeddings))
