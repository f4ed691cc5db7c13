"""Style transfer: the book's loop and Reverie's, to the same loss, in one run on one machine.

    make bench-gatys DATA=folder         (or: python -m benchmarks.gatys --data folder)

The folder holds chicago.jpg, styles/starry_night.jpg and VGG19's weights. Both sides get the same 128x192
pixels, read as the book reads them, and lower the same objective (listing 12-22), in float32 wherever a loss
is quoted.

- *The book* is `benchmarks/reference/book.py` with SGD: three pictures through VGG19 in every step. Its learning
  rate of 100 is meant for pictures 400 pixels high and diverges here; scaled by the pixel count it is 10.
  It runs for `--book-steps`, and the rest of its curve comes from benchmarks/results/gatys_book_curve.json,
  which `--curve` measures again (4000 steps with the targets computed once: the same path at a third of the work).
- *Reverie* is `synthesis.gatys.transfer` with its defaults and `--steps`. It has reached the book's loss at its
  first record at or below it of the whole objective in float32.

`passes` are counted in full-size float32 passes: one at half the size is a quarter. Tracing, which happens once
a process on both sides, is left out and given apart. Takes about two minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import typer

from benchmarks.reference.book import BookTransfer
from benchmarks.timing import say, seconds_of
from serving.python_backend.background_sender import BackgroundSender, encode_preview
from serving.python_backend.fair_share import FairShareScheduler
from synthesis import features, gatys
from synthesis.gatys import GatysParameters
from synthesis.objective import Evaluation, Objective, Targets, compiled
from synthesis.optimizers import sgd
from synthesis.progress import Progress
from synthesis.stages import plan

HEIGHT, WIDTH, RATE = 128, 192, 10.0
CURVE = Path(__file__).parent / "results" / "gatys_book_curve.json"
CURVE_STEPS = (100, 500, 1000, 2000, 4000)


def main(
    data: Annotated[Path, typer.Option(help="Folder of pictures and weights.")],
    book_steps: Annotated[int, typer.Option(help="Steps of the book's loop.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps of Reverie's transfer.")] = 120,
    curve: Annotated[
        bool, typer.Option("--curve", help="Measure 4000 steps of the book's SGD and store them.")
    ] = False,
) -> None:
    """Measure both sides and print one JSON object."""
    os.environ.setdefault(features.WEIGHTS_DIR_VARIABLE, str(data))
    content, style = (_load(data / name) for name in ("chicago.jpg", "styles/starry_night.jpg"))
    if curve:
        _measure_curve(content, style)
        return
    book_curve = json.loads(CURVE.read_text())["loss_at_book_steps"]
    result = _book(content, style, book_steps)
    result["loss_at_book_steps"] = book_curve | result["loss_at_book_steps"]
    result |= _reverie(content, style, steps, float(book_curve["4000"]))
    book_seconds = 4000 * result["book_seconds_per_step"]
    result["speedup_to_book_4000"] = round(book_seconds / result["seconds_to_book_4000"], 1)
    result |= _preview_cost(content, style) | _two_jobs(content, style)
    print(json.dumps(result))


def _load(path: Path) -> np.ndarray:
    """Listing 12-17: Keras resizes with nearest neighbors."""
    return np.asarray(keras.utils.load_img(path, target_size=(HEIGHT, WIDTH)), np.uint8)


def _book(content: np.ndarray, style: np.ndarray, steps: int) -> dict:
    model = keras.applications.VGG19(weights=None, include_top=False)
    model.load_weights(features.weights_path("vgg19"))
    book = BookTransfer(model)
    base, reference = (tf.constant(_to_caffe(p)) for p in (content, style))
    combination = tf.Variable(_to_caffe(content))
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, decay_steps=100, decay_rate=0.96)
    optimizer = keras.optimizers.SGD(schedule)
    tracing = seconds_of(lambda: book.loss_and_gradient(combination, base, reference))
    seconds, losses = [], {}
    for i in range(1, steps + 1):
        started = time.perf_counter()
        loss, gradient = book.loss_and_gradient(combination, base, reference)
        optimizer.apply_gradients([(gradient, combination)])
        seconds.append(time.perf_counter() - started)
        if i in CURVE_STEPS or i == steps:
            losses[str(i)] = round(float(loss))
            say(f"book: step {i}, loss {float(loss):.0f}")
    return {
        "book_steps_run": steps,
        "book_seconds_per_step": round(statistics.median(seconds), 4),
        "book_tracing_seconds": round(tracing, 1),
        "loss_at_book_steps": losses,
    }


def _to_caffe(image: np.ndarray) -> np.ndarray:
    return keras.applications.vgg19.preprocess_input(image[None].astype(np.float32))


def _measure_curve(content: np.ndarray, style: np.ndarray) -> None:
    goal = gatys.objective("vgg19")
    targets = gatys.book_targets(goal, content, style, gatys.BOOK)
    losses: list[float] = []

    def report(pixels: np.ndarray, here: Evaluation) -> None:
        losses.append(here.loss)
        if len(losses) in CURVE_STEPS:
            say(f"curve: step {len(losses)}, loss {here.loss:.0f}")

    sgd(lambda pixels: goal.measure(pixels, targets), content.astype(np.float64), max(CURVE_STEPS), RATE, report)
    curve = {str(i): round(losses[i - 1]) for i in CURVE_STEPS}
    text = json.dumps({"size": [HEIGHT, WIDTH], "learning_rate": RATE, "loss_at_book_steps": curve})
    CURVE.write_text(text + "\n")
    print(text)


class _Counter:
    """Counts passes by patching `Objective.measure`, in full-size passes whatever their precision."""

    def __init__(self) -> None:
        self.passes = 0.0
        self._original = Objective.measure

    def __enter__(self) -> _Counter:
        counter = self

        def measure(self: Objective, pixels: np.ndarray, targets: Targets) -> Evaluation:
            counter.passes += pixels.shape[0] * pixels.shape[1] / (HEIGHT * WIDTH)
            return counter._original(self, pixels, targets)

        Objective.measure = measure  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Objective.measure = self._original  # type: ignore[method-assign]


def _reverie(content: np.ndarray, style: np.ndarray, steps: int, goal: float) -> dict:
    parameters = GatysParameters(recipe="book", features="vgg19", steps=steps)
    # As many small steps as in the timed run, so that the same layers are left out and traced here.
    tracing = seconds_of(lambda: gatys.transfer(content, style, parameters))
    last_stage = len(plan(HEIGHT, WIDTH, parameters)) - 1
    reached: dict[str, float] = {}
    records: list[Progress] = []

    with _Counter() as counter:

        def on_progress(progress: Progress) -> None:
            records.append(progress)
            if not reached and progress.exact and progress.loss <= goal and progress.stage == last_stage:
                reached.update(seconds=progress.seconds, passes=counter.passes, step=progress.step)

        gatys.transfer(content, style, parameters, on_progress)
    say(f"reverie: {[(r.step, round(r.loss)) for r in records[:: max(1, steps // 10)]]}, {records[-1].loss:.0f}")
    if not reached:
        raise SystemExit(f"{steps} steps ended at {records[-1].loss:.0f}, above {goal:.0f}; give more --steps")
    return {
        "book_loss_4000": goal,
        "reverie_steps": steps,
        "reverie_step_reached": int(reached["step"]),
        "reverie_final_loss": round(records[-1].loss),
        "reverie_final_seconds": round(records[-1].seconds, 2),
        "reverie_tracing_seconds": round(tracing, 1),
        "passes_to_book_4000": round(reached["passes"], 1),
        "seconds_to_book_4000": round(reached["seconds"], 2),
        **_seconds_per_pass(content, style),
    }


def _seconds_per_pass(content: np.ndarray, style: np.ndarray) -> dict:
    """Medians of a full-size pass in each arithmetic, alternating."""
    layers = gatys.objective("vgg19").layers
    goals = {dtype: compiled(layers, dtype) for dtype in dict.fromkeys(("float32", features.fast_dtype()))}
    targets = gatys.book_targets(goals["float32"], content, style, gatys.BOOK)
    seconds: dict[str, list[float]] = {dtype: [] for dtype in goals}
    for _ in range(10):
        for dtype, goal in goals.items():
            seconds[dtype].append(seconds_of(lambda goal=goal: goal.measure(content, targets)))  # type: ignore[misc]
    return {
        "seconds_per_pass": round(statistics.median(seconds["float32"]), 4),
        "fast_dtype": features.fast_dtype(),
        "seconds_per_fast_pass": round(statistics.median(seconds[features.fast_dtype()]), 4),
    }


def _preview_cost(content: np.ndarray, style: np.ndarray) -> dict:
    """Seconds a step with a JPEG of the full size after every step, over those without; runs alternate."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(3):
        for every, found in seconds.items():
            parameters = GatysParameters(recipe="book", features="vgg19", steps=10, scales=1, preview_every=every)
            with BackgroundSender(lambda progress: (encode_preview(progress, 0), None)[1]) as sender:
                stamps: list[float] = []

                def on_progress(progress: Progress, stamps=stamps, sender=sender) -> None:
                    sender.send(progress)
                    stamps.append(progress.seconds)

                gatys.transfer(content, style, parameters, on_progress)
            found += np.diff(stamps).tolist()
    without, previews = (statistics.median(seconds[i]) for i in (0, 1))
    return {"preview_cost_percent": round(100 * (previews / without - 1), 1)}


def _two_jobs(content: np.ndarray, style: np.ndarray) -> dict:
    """Two transfers at once, taking turns as in an instance of the model, over one after the other."""
    scheduler = FairShareScheduler()

    def job() -> None:
        with scheduler.job() as slot:
            parameters = GatysParameters(recipe="book", features="vgg19", steps=15, scales=1)
            gatys.transfer(content, style, parameters, lambda progress: slot.yield_slot())

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(job) for _ in range(2)]:
                future.result()

    one_by_one, together = seconds_of(job) + seconds_of(job), seconds_of(both)
    return {"two_jobs_over_their_sum": round(together / one_by_one, 3)}


if __name__ == "__main__":
    typer.run(main)
