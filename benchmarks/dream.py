"""DeepDream: the book's loop and Reverie's on an 800x532 photograph, in one run on one machine.

    make bench-dream DATA=folder         (or: python -m benchmarks.dream --data folder)

The folder holds chicago.jpg and InceptionV3's weights. The book's settings (four layers, three octaves of up to
30 steps) on both sides. *The book* is `benchmarks/reference/book.py`; *Reverie* is `synthesis.deepdream.dream`,
with convolutions in bfloat16 where the processor has it (`precision="auto"`), and once more in float32, whose
picture is the book's. Both sides are quoted without tracing, which happens once a process (the book traces
each octave again: `book_seconds_with_tracing`). `seconds` run until the last octave reaches the book's last loss,
or `max_loss` (15), at which every run ends itself: how far the last step overshoots it is a matter of rounding.
`flop_fraction_of_peak`: multiplications and additions of the convolutions, forwards and to the picture, per
second over those of a large matrix product in the same arithmetic. Takes about a minute and a half.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import typer

from benchmarks.reference.book import BookDream
from benchmarks.timing import say, seconds_of
from imaging import images
from serving.python_backend.background_sender import BackgroundSender, encode_preview
from synthesis import features
from synthesis.deepdream import DeepDreamParameters, dream, octave_shapes
from synthesis.progress import Progress

HEIGHT, WIDTH = 532, 800
LAYERS = {"mixed4": 1.0, "mixed5": 1.5, "mixed6": 2.0, "mixed7": 2.5}
BOOK = DeepDreamParameters(recipe="book", features="inception_v3")


def main(
    data: Annotated[Path, typer.Option(help="Folder of the picture and the weights.")],
    iterations: Annotated[int, typer.Option(help="Steps an octave; fewer for a quick look.")] = 30,
    peak_memory: Annotated[bool, typer.Option("--peak-memory", hidden=True)] = False,
) -> None:
    """Measure both sides and print one JSON object."""
    os.environ.setdefault(features.WEIGHTS_DIR_VARIABLE, str(data))
    photo = images.resize(images.read(data / "chicago.jpg"), HEIGHT, WIDTH)
    if peak_memory:
        _dream_large(photo)
        return
    result, picture = _book(photo, iterations)
    for name, precision in (("reverie", "auto"), ("reverie_float32", "float32")):
        goal = min(result["book_last_loss"], BOOK.max_loss)
        result |= _reverie(photo, name, precision, iterations, goal, picture)
    result["speedup"] = round(result["book_seconds"] / result["reverie_seconds"], 2)
    result["speedup_float32"] = round(result["book_seconds"] / result["reverie_float32_seconds"], 2)
    result |= _preview_cost(photo)
    result["peak_memory_mib_2048_tiled"] = _peak_memory(data)
    print(json.dumps(result))


def _book(photo: np.ndarray, iterations: int) -> tuple[dict, np.ndarray]:
    model = keras.applications.InceptionV3(weights=None, include_top=False)
    model.load_weights(features.weights_path("inception_v3"))
    book = BookDream(model, LAYERS, lambda image: image)
    tracing = seconds_of(lambda: book.dream(photo, iterations=1))
    losses: list[float] = []
    started = time.perf_counter()
    picture = book.dream(photo, iterations=iterations, losses=losses)
    seconds = time.perf_counter() - started
    say(f"book: {len(losses)} steps in {seconds:.1f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}")
    result = {
        "book_seconds": round(seconds, 2),
        "book_seconds_with_tracing": round(seconds + tracing - 3 * seconds / max(1, len(losses)), 2),
        "book_steps": len(losses),
        "book_last_loss": losses[-1],
    }
    return result, images.to_uint8((picture[0] + 1) * 127.5)


def _reverie(photo: np.ndarray, name: str, precision: str, iterations: int, goal: float, book: np.ndarray) -> dict:
    parameters = BOOK.model_copy(update={"precision": precision, "iterations": iterations})
    seconds_of(lambda: dream(photo, parameters.model_copy(update={"iterations": 1})))
    records: list[Progress] = []
    picture = dream(photo, parameters, records.append)
    reached = next((r.seconds for r in records if r.stage == 2 and r.loss >= goal), None)
    last = records[-1]
    say(f"{name}: {len(records)} steps in {last.seconds:.1f} s, loss {records[0].loss:.3f} to {last.loss:.3f}")
    if reached is None:
        raise SystemExit(f"{name} ended at a loss of {last.loss:.4f}; the goal is {goal:.4f}")
    dtype = features.dtype_of(precision)
    return {
        f"{name}_dtype": dtype,
        f"{name}_seconds": round(reached, 2),
        f"{name}_steps": len(records),
        f"{name}_last_loss": last.loss,
        f"{name}_mean_difference_to_book": round(float(np.abs(picture.astype(int) - book).mean()), 3),
        ("" if name == "reverie" else f"{name}_") + "flop_fraction_of_peak": round(
            _flops(records) / last.seconds / _matrix_rate(dtype), 3
        ),
    }


def _flops(records: list[Progress]) -> float:
    """Twice a multiply-add, forwards and once more for the gradient, of every convolution in every step."""
    shapes = octave_shapes(HEIGHT, WIDTH, BOOK.num_octave, BOOK.octave_scale)
    network = features.network("inception_v3")
    cut = keras.Model(network.inputs, [network.get_layer(name).output for name in LAYERS])
    convolutions = [layer for layer in cut.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(cut.inputs, [layer.output for layer in convolutions])
    sums = []
    for height, width in shapes:
        found = outputs.compute_output_shape((1, height, width, 3))
        kernels = [np.prod(layer.kernel.shape) for layer in convolutions]
        sums.append(sum(2 * 2 * s[1] * s[2] * k for s, k in zip(found, kernels, strict=True)))
    return float(sum(sums[record.stage] for record in records))


def _matrix_rate(dtype: str) -> float:
    """Operations per second of a large matrix product; the best of several."""
    n = 3072
    a = tf.cast(tf.random.normal((n, n)), dtype)
    product = tf.function(lambda x: tf.matmul(x, x))
    product(a).numpy()
    return 2 * n**3 / min(seconds_of(lambda: product(a).numpy()) for _ in range(5))


def _preview_cost(photo: np.ndarray) -> dict:
    """Seconds a step with a JPEG of 640 pixels after every step, over those without; runs alternate."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(2):
        for every, found in seconds.items():
            parameters = BOOK.model_copy(
                update={"num_octave": 1, "iterations": 8, "preview_every": every, "precision": "auto", "max_loss": 0.0}
            )
            with BackgroundSender(lambda progress: (encode_preview(progress, 640), None)[1]) as sender:
                stamps: list[float] = []

                def on_progress(progress: Progress, stamps=stamps, sender=sender) -> None:
                    sender.send(progress)
                    stamps.append(progress.seconds)

                dream(photo, parameters, on_progress)
            found += np.diff(stamps).tolist()
    without, previews = (statistics.median(seconds[i]) for i in (0, 1))
    return {"preview_cost_percent": round(100 * (previews / without - 1), 1)}


def _peak_memory(data: Path) -> int:
    command = [sys.executable, "-m", "benchmarks.dream", "--data", str(data), "--peak-memory"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _dream_large(photo: np.ndarray) -> None:
    """Print this process's peak memory in MiB after two tiled steps at 2048x2048."""
    large = images.resize(photo, 2048, 2048)
    dream(
        large,
        BOOK.model_copy(update={"tile": 512, "size": 2048, "num_octave": 1, "iterations": 2, "precision": "auto"}),
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    typer.run(main)
