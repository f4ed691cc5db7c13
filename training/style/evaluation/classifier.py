"""Is it still the same thing? An image classifier is asked that no style network was trained with.

Knows nothing about networks and styles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from synthesis import images

GUESSES = 5
"""A picture is recognised if the photograph's first guess is among so many of its own."""


class ClassifierError(Exception):
    """A classifier file that cannot be used; the message says what can."""


class Classifier:
    """A TensorFlow Lite classifier such as MobileNetV2.

    Args:
        file: one input uint8 or float32 (1, side, side, 3), float ones in [-1, 1]; one output of scores (1, classes).

    Raises:
        ClassifierError: not such a file.
    """

    def __init__(self, file: Path):
        if not file.is_file():
            raise ClassifierError(f"{file} is not a file; accepted: a TensorFlow Lite image classifier (.tflite)")
        self._interpreter = tf.lite.Interpreter(str(file))
        self._interpreter.allocate_tensors()
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def guesses(self, image: np.ndarray) -> list[int]:
        """Class numbers of uint8 (height, width, 3), the likeliest first.

        The whole picture is squeezed into a square, because what it shows may be anywhere.
        """
        _, height, width, _ = self._input["shape"]
        pixels = images.resize(image, int(height), int(width))[None]
        if self._input["dtype"] is not np.uint8:
            pixels = (pixels / 127.5 - 1).astype(np.float32)
        self._interpreter.set_tensor(self._input["index"], pixels)
        self._interpreter.invoke()
        return np.argsort(
            -self._interpreter.get_tensor(self._output["index"])[0].astype(np.float64), kind="stable"
        ).tolist()

    def recognises(self, photo: np.ndarray, painted: np.ndarray) -> bool:
        """Whether its first guess for the photograph is among the first five for `painted`."""
        return self.guesses(photo)[0] in self.guesses(painted)[:GUESSES]
