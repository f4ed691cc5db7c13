"""Is it still the same thing? An image classifier is asked that no style network was trained with.

Knows nothing about networks and styles.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from imaging import images
from reverie.errors import ToolkitError

GUESSES = 5
"""A picture is recognised if the photograph's first guess is among so many of its own."""


class ClassifierError(ToolkitError):
    """A classifier file that cannot be used; the message says what can."""


class Classifier:
    """A TensorFlow Lite image classifier such as MobileNetV2.

    Args:
        file: its input is uint8 or float32 (1, height, width, 3), floats in [-1, 1]; its output scores (1, classes).

    Raises:
        ClassifierError: not such a file.
    """

    def __init__(self, file: Path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TensorFlow recommends another package for its own interpreter.
                self._interpreter = tf.lite.Interpreter(str(file))
            self._interpreter.allocate_tensors()
            (self._input,) = self._interpreter.get_input_details()
            (self._output,) = self._interpreter.get_output_details()
            self.guesses(np.zeros((16, 16, 3), np.uint8))
        # Whatever the interpreter or NumPy makes of a file of another kind.
        except Exception as error:
            raise ClassifierError(
                f"{file} cannot be used ({' '.join(str(error).split())}); accepted: a TensorFlow Lite image classifier, such as MobileNetV2"
            ) from None

    def guesses(self, image: np.ndarray) -> list[int]:
        """Return class numbers of uint8 (height, width, 3), the likeliest `GUESSES` first.

        The whole picture is squeezed into the input's shape, because what it shows may be anywhere. Of a quantized
        classifier most classes have the lowest score; they are no guesses.
        """
        _, height, width, _ = (int(side) for side in self._input["shape"])
        pixels = images.resize(image, height, width)[None]
        is_float = self._input["dtype"] is np.float32
        self._interpreter.set_tensor(self._input["index"], np.float32(pixels / 127.5 - 1) if is_float else pixels)
        self._interpreter.invoke()
        (scores,) = self._interpreter.get_tensor(self._output["index"]).astype(np.float64)
        best = np.argsort(-scores, kind="stable")[:GUESSES]
        return [int(number) for number in best if scores[number] > scores.min()]
