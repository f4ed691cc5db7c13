"""Text engines for tests: callers that collect their text, and an engine that works in the test's own thread."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from export.language_model import variants
from export.language_model.export import round_to_float16
from language.tokenizer import load_tokenizer
from language.vocabulary import Vocabulary
from serving.text.decoder import Decoder
from serving.text.engine import TextEngine
from serving.text.parameters import GenerateParameters
from serving.text.pool import EnginePool
from serving.text.prompts import task_of
from serving.text.request import Task, TextDelta, joined
from training.language_model.model import LanguageModel, LanguageModelConfig

POSITIONS = 40


def word_model(path: Path) -> None:
    """Write a small random word model as it is served."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    words = ["", "[UNK]", *(f"w{i}" for i in range(299))]
    model = LanguageModel(LanguageModelConfig(len(words), POSITIONS, 32, 64, 2))
    model(np.zeros((1, 2), np.int32))
    # Random weights make all words alike; these make some likelier.
    model.head.kernel.assign(model.head.kernel * 12)
    round_to_float16(model)
    rows = np.random.default_rng(0).integers(2, len(words), (4, POSITIONS))
    variants.save(variants.graphs(model, variants.calibrate(model, rows)), path)
    Vocabulary(words).save(path)


class Listener:
    """A caller that collects a request's deltas.

    Args:
        give_up_after: messages after which it has gone; 0 for never.
        work: what makes the text come, where no other thread does.
    """

    def __init__(self, give_up_after: int = 0, work: Callable[[], object] | None = None):
        self.deltas: list[TextDelta] = []
        self.messages = self.begins = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._give_up_after, self._work = give_up_after, work

    def send(self, deltas: list[TextDelta], last: bool) -> None:
        self.deltas += deltas
        self.messages += 1
        if last:
            self.ended.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.ended.set()

    def cancelled(self) -> bool:
        return bool(self._give_up_after) and self.messages >= self._give_up_after

    def begin(self) -> None:
        self.begins += 1

    def wait(self) -> None:
        """Until the last message has come."""
        while self._work and not self.ended.is_set():
            self._work()
        assert self.ended.wait(60)

    def text(self) -> str:
        self.wait()
        assert self.error is None
        return joined(self.deltas)

    def texts(self) -> list[str]:
        """The text of each continuation."""
        self.wait()
        indices = sorted({delta.index for delta in self.deltas})
        return [joined(delta for delta in self.deltas if delta.index == index) for index in indices]


class SteppedEngine:
    """A `TextEngine` in the test's own thread: nothing happens but in `step`."""

    def __init__(self, folder: Path, slots: int, precision: str = "int8", **more: Any):
        self.decoder = Decoder(folder, precision, slots)
        self.tokenizer = load_tokenizer(folder)
        self.engine = TextEngine(self.decoder, self.tokenizer, **more)
        self._numbers = itertools.count()
        self._open: dict[int, Listener] = {}

    def submit(self, text: str, parameters: GenerateParameters, listener: Listener, client: str = "") -> None:
        task = task_of(text, parameters, self.tokenizer, self.engine.positions, client)
        for index in range(parameters.n):
            self.add(replace(task, index=index), listener)

    def add(self, task: Task, listener: Listener) -> None:
        number = next(self._numbers)
        self._open[number] = listener
        self.engine.add(number, task)

    def ask(self, text: str = "w1 w2", client: str = "", **parameters: Any) -> Listener:
        listener = Listener(work=self.step)
        self.submit(text, GenerateParameters(**parameters), listener, client)
        return listener

    def cancel(self, listener: Listener) -> None:
        for number, other in list(self._open.items()):
            if other is listener:
                self.engine.cancel(number)

    def step(self, times: int = 1) -> None:
        for number, content, last in itertools.chain.from_iterable(self.engine.step() for _ in range(times)):
            listener = self._open.pop(number) if last else self._open[number]
            if isinstance(content, BaseException):
                listener.fail(content)
            else:
                listener.send([content] if content else [], last and listener not in self._open.values())


def ask(engine: EnginePool, text: str = "w1 w2", **parameters: Any) -> Listener:
    """A request without a client's name."""
    listener = Listener()
    engine.submit(text, GenerateParameters(**parameters), listener)
    return listener


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
