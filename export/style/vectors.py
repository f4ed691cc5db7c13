"""A style as a vector: a network's rows of scales and shifts one after another, and last its share of the photograph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from keras import ops

from synthesis.style.network import StyleNetwork


def style_variables(network: StyleNetwork) -> Iterator:
    """The variables with a row for each style, in the order in which a vector holds these rows."""
    for layer in network.normalized():
        yield from (layer.norm.gamma, layer.norm.beta)
    yield network.to_rgb.share


def style_vectors(network: StyleNetwork) -> np.ndarray:
    """Every style of a network, float32 (styles, numbers)."""
    rows = [ops.convert_to_numpy(variable) for variable in style_variables(network)]
    return np.concatenate(rows, axis=1).astype(np.float32)


def lengths(network: StyleNetwork) -> list[int]:
    """How many of a vector's numbers belong to each of `style_variables`."""
    return [variable.shape[1] for variable in style_variables(network)]


def trunk_hash(network: StyleNetwork) -> str:
    """SHA-256 (first 16 hex digits) over what all styles share, rounded as it is published.

    It stays when styles are added; a vector fits every network that has the same.
    """
    digest = hashlib.sha256(str(lengths(network)).encode())
    for convolution in network.convolutions():
        for variable in convolution.variables:
            digest.update(ops.convert_to_numpy(variable).astype(np.float16).tobytes())
    return digest.hexdigest()[:16]
