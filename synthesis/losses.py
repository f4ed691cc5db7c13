"""What content, style and smoothness mean: listings 12-19 to 12-21, in `keras.ops` for batches.

Used by Gatys' optimization, by the training of the style network and by that of the compact extractor.
"""

from __future__ import annotations

from keras import ops


def gram_matrix(features, dtype="float32"):
    """Return the inner products of the feature maps (listing 12-20), summed over positions.

    Args:
        features: float (batch, height, width, channels).
        dtype: of the products; bfloat16 rounds each sum.

    Returns:
        float32 (batch, channels, channels).

    Example:
        >>> gram_matrix(np.ones((1, 4, 5, 2)))[0]  # 20 positions: [[20., 20.], [20., 20.]]
    """
    batch, height, width, channels = ops.shape(features)
    flat = ops.cast(ops.reshape(features, (batch, height * width, channels)), dtype)
    return ops.cast(ops.matmul(ops.transpose(flat, (0, 2, 1)), flat), "float32")


def content_loss(features, target):
    """Return the sum of squared differences of activations (listing 12-19).

    Args:
        features, target: float (batch, height, width, channels).

    Returns:
        float32 (batch,).
    """
    return ops.sum(ops.square(ops.cast(features, "float32") - target), axis=(1, 2, 3))


def style_loss(gram, target, pixels):
    """Return the squared distance of Gram matrices over `4 * 3**2 * pixels**2` (listing 12-20).

    Args:
        gram, target: float32 (batch, channels, channels).
        pixels: height times width of the image, a float.

    Returns:
        float32 (batch,).
    """
    return ops.sum(ops.square(gram - target), axis=(-2, -1)) / (36.0 * pixels**2)


def relative_error(value, target, axis=None):
    """Return the squared error over the squared target, both summed over `axis` (all axes by default).

    Args:
        value, target: float, of the same shape.
        axis: the axes that are summed over.

    Returns:
        float32 with the axes that are left. 0 is perfect; zeros in place of the target get 1.
    """
    value, target = ops.cast(value, "float32"), ops.cast(target, "float32")
    return ops.sum(ops.square(value - target), axis=axis) / (ops.sum(ops.square(target), axis=axis) + 1e-6)


def total_variation(image):
    """Return the sum of squared local differences to the power 1.25 (listing 12-21).

    Args:
        image: float (batch, height, width, 3), pixels in [0, 255].

    Returns:
        float32 (batch,).
    """
    corner = image[:, :-1, :-1, :]
    down = ops.square(corner - image[:, 1:, :-1, :])
    right = ops.square(corner - image[:, :-1, 1:, :])
    return ops.sum(_power_1_25(down + right), axis=(1, 2, 3))


def _power_1_25(x):
    """Return x ** 1.25 for x >= 0. Two square roots give it a gradient of 0 at 0, where a power has NaN."""
    safe = ops.where(x > 0, x, 1.0)
    return ops.where(x > 0, safe * ops.sqrt(ops.sqrt(safe)), 0.0)
