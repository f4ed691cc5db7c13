"""Places inside long computations where a job can be made to wait for another, or to end.

An optimization calls `checkpoint` between its pieces of work: tiles, octaves, targets, evaluations. The gradient of a
large picture is one call that takes seconds or minutes; `pausing` puts checkpoints between its convolutions.
Who listens (`serving.python_backend.fair_share`) is one for the process. Without a listener nothing here costs anything.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import keras
import tensorflow as tf

PAUSING_PIXELS = 384 * 384
"""The gradient of more pixels is computed with checkpoints inside; that of fewer takes about as long as a turn."""


class Listener(Protocol):
    """Who is asked at checkpoints; one for the process."""

    def checkpoint(self) -> None:
        """Return when this thread's job may continue; may raise, `Cancelled` for example."""

    def large_call(self) -> AbstractContextManager[None]:
        """Return a context manager for a call that has checkpoints inside."""

    def checkpoint_inside(self) -> None:
        """As `checkpoint`, inside the large call that is being made; called from TensorFlow's threads."""


_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Ask `listener` at each checkpoint of this process from now on; None asks nobody."""
    global _listener
    _listener = listener


def checkpoint() -> None:
    """Let the listener make this job wait, or raise."""
    if _listener is not None:
        _listener.checkpoint()


def is_large(pixels: int) -> bool:
    """Return whether a call on so many pixels should be made with `pausing` networks, as a `large_call`."""
    return _listener is not None and pixels > PAUSING_PIXELS


def large_call(pixels: int) -> AbstractContextManager[None]:
    """Return a context manager for a call on so many pixels; it does nothing for small ones."""
    return _listener.large_call() if _listener is not None and is_large(pixels) else nullcontext()


def pausing(model: keras.Model) -> keras.Model:
    """Return the same network with the same weights, and a checkpoint before each convolution, forward and backward."""

    def call(layer: keras.layers.Layer, *arguments, **named):
        if isinstance(layer, keras.layers.Conv2D):
            arguments = (_Checkpoint()(arguments[0]), *arguments[1:])
        return layer(*arguments, **named)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


class _Checkpoint(keras.layers.Layer):
    """The identity, once the listener has been asked."""

    def call(self, x):
        return _asked(x)


@tf.custom_gradient
def _asked(x):
    return _after_asking(x), _after_asking


def _after_asking(x):
    with tf.control_dependencies([x]):
        asked = tf.numpy_function(_ask, [], tf.bool)
    with tf.control_dependencies([asked]):
        return tf.identity(x)


def _ask() -> bool:
    if _listener is not None:
        _listener.checkpoint_inside()
    return True
