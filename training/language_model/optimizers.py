"""The optimizers of a language model: the book's, and two with warm-up, cosine, clipping and weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from training.loop import warmup_cosine


def rmsprop(model: keras.Model, *, learning_rate: float, **unused: Any) -> keras.optimizers.Optimizer:
    """Return the book's RMSprop: a constant rate and nothing else."""
    return keras.optimizers.RMSprop(learning_rate)


def adamw(
    model: keras.Model, *, learning_rate: float, steps: int, warmup_steps: int, weight_decay: float, beta_2: float
) -> keras.optimizers.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019); only matrices decay."""
    rate = warmup_cosine(learning_rate, steps, warmup_steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=weight_decay, beta_2=beta_2, global_clipnorm=1.0)
    return _decay_matrices_only(optimizer, model)


def muon(
    model: keras.Model, *, learning_rate: float, steps: int, warmup_steps: int, weight_decay: float, beta_2: float
) -> keras.optimizers.Optimizer:
    """Return Muon (Jordan et al. 2024) for matrices, scaled to AdamW's rates (Liu et al. 2025); AdamW for the rest."""
    optimizer = PrecisionMuon(
        warmup_cosine(learning_rate, steps, warmup_steps),
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        adam_beta_2=beta_2,
        global_clipnorm=1.0,
    )
    return _decay_matrices_only(optimizer, model)


class PrecisionMuon(keras.optimizers.Muon):
    """Keras's, which orthogonalises in float32; as its authors do, in bfloat16 where the run computes in it."""

    def zeropower_via_newtonschulz5(self, x, steps: int):
        dtype = keras.config.dtype_policy().compute_dtype
        return ops.cast(super().zeropower_via_newtonschulz5(ops.cast(x, dtype), steps), x.dtype)


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {"rmsprop": rmsprop, "adamw": adamw, "muon": muon}


def _decay_matrices_only(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> keras.optimizers.Optimizer:
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer
