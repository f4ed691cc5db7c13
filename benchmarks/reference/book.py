"""Chapter 12's loops as plainly as they can be written, in the book's units: what the fast ones must agree with."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class BookDream:
    """Listings 12-11 to 12-15: pixels in [-1, 1], layers by name, one gradient step after the other."""

    def __init__(self, model: keras.Model, layer_settings: dict[str, float], to_input=lambda image: image):
        outputs = {name: model.get_layer(name).output for name in layer_settings}
        self._features = keras.Model(model.inputs, outputs)
        self._settings, self._to_input = layer_settings, to_input

    def loss(self, image):
        features = self._features(self._to_input(image), training=False)
        total = tf.zeros(())
        for name, weight in self._settings.items():
            total += weight * tf.reduce_mean(tf.square(features[name][:, 2:-2, 2:-2, :]))
        return total

    @tf.function
    def step(self, image, learning_rate):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = self.loss(image)
        gradient = tf.math.l2_normalize(tape.gradient(loss, image))
        return loss, image + learning_rate * gradient

    def octave(self, image, iterations, learning_rate, max_loss=None, losses=None):
        for _ in range(iterations):
            loss, image = self.step(image, learning_rate)
            if losses is not None:
                losses.append(float(loss))
            if max_loss is not None and loss > max_loss:
                break
        return image

    def dream(self, photo, step=20.0, num_octave=3, octave_scale=1.4, iterations=30, max_loss=15.0, losses=None):
        """Return the dream of a uint8 (height, width, 3): floats in [-1, 1], (1, height, width, 3)."""
        original = photo[None].astype(np.float32) / 127.5 - 1.0
        shapes = [original.shape[1:3]]
        for i in range(1, num_octave):
            shapes.append(tuple(int(side / octave_scale**i) for side in original.shape[1:3]))
        shapes = shapes[::-1]
        shrunk, image = tf.image.resize(original, shapes[0]), tf.identity(original)
        for shape in shapes:
            image = self.octave(tf.image.resize(image, shape), iterations, step, max_loss, losses)
            detail = tf.image.resize(original, shape) - tf.image.resize(shrunk, shape)
            image, shrunk = image + detail, tf.image.resize(original, shape)
        return image.numpy()


class BookTransfer:
    """Listings 12-16 to 12-23: photograph, painting and picture through VGG19 together, in every step."""

    STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
    CONTENT = "block5_conv2"

    def __init__(self, model: keras.Model):
        self._features = keras.Model(model.inputs, {layer.name: layer.output for layer in model.layers[1:]})

    def loss(self, combination, base, style):
        features = self._features(tf.concat([base, style, combination], axis=0), training=False)
        content = features[self.CONTENT]
        total = 2.5e-8 * tf.reduce_sum(tf.square(content[2] - content[0]))
        size = combination.shape[1] * combination.shape[2]
        for name in self.STYLE:
            wanted, seen = _gram_matrix(features[name][1]), _gram_matrix(features[name][2])
            distance = tf.reduce_sum(tf.square(wanted - seen)) / (4.0 * 3**2 * size**2)
            total += 1e-6 / len(self.STYLE) * distance
        down = tf.square(combination[:, :-1, :-1] - combination[:, 1:, :-1])
        right = tf.square(combination[:, :-1, :-1] - combination[:, :-1, 1:])
        return total + 1e-6 * tf.reduce_sum(tf.pow(down + right, 1.25))

    @tf.function
    def loss_and_gradient(self, combination, base, style):
        with tf.GradientTape() as tape:
            tape.watch(combination)
            loss = self.loss(combination, base, style)
        return loss, tape.gradient(loss, combination)


def _gram_matrix(activation):
    maps = tf.transpose(activation, (2, 0, 1))
    flat = tf.reshape(maps, (tf.shape(maps)[0], -1))
    return tf.matmul(flat, flat, transpose_b=True)
