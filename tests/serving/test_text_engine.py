"""The text engine on a small model: batching, limits, cancellation, errors."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from export.language_model import round_to_float16
from export.text import variants
from language.vocabulary import Vocabulary
from serving.text.engine import Piece, QueueFull, TextEngine, engine_of, joined
from serving.text.parameters import GenerateParameters
from serving.text.pool import EngineLost, EnginePool
from synthesis.errors import InputError
from training.language_model.model import LanguageModel, LanguageModelConfig

POSITIONS = 40


class Listener:
    """Collects a request's pieces."""

    def __init__(self, give_up_after: int = 0):
        self.pieces: list[Piece] = []
        self.messages = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._give_up_after = give_up_after

    def send(self, pieces, last):
        self.pieces += pieces
        self.messages += 1
        if last:
            self.ended.set()

    def fail(self, error):
        self.error = error
        self.ended.set()

    def cancelled(self):
        return bool(self._give_up_after) and self.messages >= self._give_up_after

    def text(self) -> str:
        assert self.ended.wait(60)
        assert self.error is None
        return joined(self.pieces)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random word model as it is served."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    words = ["", "[UNK]", *(f"w{i}" for i in range(299))]
    model = LanguageModel(LanguageModelConfig(len(words), POSITIONS, 32, 64, 2))
    model(np.zeros((1, 2), np.int32))
    # Random weights make all words alike; these make some likelier.
    model.head.kernel.assign(model.head.kernel * 12)
    round_to_float16(model)
    path = tmp_path_factory.mktemp("engine")
    rows = np.random.default_rng(0).integers(2, len(words), (4, POSITIONS))
    variants.save(variants.graphs(model, variants.calibrate(model, rows)), path)
    Vocabulary(words).save(path)
    return path


@pytest.fixture(scope="module")
def pool(folder) -> Iterator[EnginePool]:
    running = EnginePool(folder, slots=8, workers=2, max_waiting=4000)
    yield running
    running.close()


@pytest.fixture
def threads(folder) -> Iterator[TextEngine]:
    running = engine_of(folder, slots=8, workers=2, max_waiting=4000)
    yield running
    running.close()


@pytest.fixture(params=["threads", "pool"])
def engine(request) -> TextEngine | EnginePool:
    """Both ways to run an engine; they are used alike."""
    return request.getfixturevalue(request.param)


def ask(engine: TextEngine | EnginePool, text: str = "w1 w2", **parameters) -> Listener:
    listener = Listener()
    engine.submit(text, GenerateParameters(**parameters), listener)
    return listener


def random_parameters(rng: np.random.Generator) -> dict:
    return {
        "temperature": float(rng.choice([0, 0.3, 1, 1.7])),
        "top_k": int(rng.choice([0, 1, 10, 200])),
        "top_p": float(rng.choice([1, 0.9, 0.4])),
        "min_p": float(rng.choice([0, 0.1])),
        "repetition_penalty": float(rng.choice([1, 1.5])),
        "frequency_penalty": float(rng.choice([0, 0.7])),
        "presence_penalty": float(rng.choice([0, -0.4])),
        "stop": [] if rng.random() < 0.7 else ["w7", "w12 "],
        "logprobs": None if rng.random() < 0.8 else 2,
        "logit_bias": {} if rng.random() < 0.7 else {5: 4.0},
        "seed": int(rng.integers(1000)),
        "max_tokens": 16,
        "stream": bool(rng.random() < 0.5),
    }


def test_two_hundred_parameter_sets_give_the_same_text_alone_and_in_a_full_batch(engine):
    rng = np.random.default_rng(0)
    asked = [
        (" ".join(f"w{i}" for i in rng.integers(0, 299, rng.integers(1, 9))), random_parameters(rng))
        for _ in range(200)
    ]
    alone = [ask(engine, text, **parameters).text() for text, parameters in asked]
    together = [ask(engine, text, **parameters) for text, parameters in asked]
    assert [listener.text() for listener in together] == alone
    assert len(set(alone)) > 150


def test_greedy_beside_others_stays_greedy_and_leaves_them_alone(engine):
    alone = ask(engine, temperature=1.0, seed=3, max_tokens=20).text()
    greedy = ask(engine, temperature=0, max_tokens=20).text()
    first, second = ask(engine, temperature=1.0, seed=3, max_tokens=20), ask(engine, temperature=0, max_tokens=20)
    assert (first.text(), second.text()) == (alone, greedy)


def test_a_stop_string_ends_the_text_across_tokens_and_is_not_shown(engine):
    whole = ask(engine, seed=1, max_tokens=20, ignore_eos=True).text()
    words = whole.split()
    stop = f"{words[5][-1]} {words[6][:2]}"
    listener = ask(engine, seed=1, max_tokens=20, ignore_eos=True, stop=[stop])
    assert listener.text() == whole[: whole.index(stop)]
    assert listener.pieces[-1].finish_reason == "stop"


def test_continuations_are_ordered_repeatable_and_different(engine):
    listeners = [ask(engine, n=12, seed=5, max_tokens=8) for _ in range(2)]
    texts = [[(p.index, p.text) for p in listener.pieces] for listener in listeners if listener.text() is not None]
    assert texts[0] == texts[1]
    assert [index for index, _ in texts[0]] == list(range(12))
    assert len({text for _, text in texts[0]}) > 9


def test_prompts_of_every_length(engine):
    for words in (1, POSITIONS - 1, POSITIONS):
        listener = ask(engine, "w3 " * words, max_tokens=1000, ignore_eos=True, seed=1)
        assert len(listener.text().split()) == POSITIONS - words + 1
        assert listener.pieces[-1].finish_reason == "length"
    for words in (0, POSITIONS + 1, 5000):
        with pytest.raises(InputError, match=rf"{words} tokens; accepted: 1 to {POSITIONS} tokens|bytes"):
            ask(engine, "w3 " * words)
    kept = ask(engine, "w9 " * 5000 + "w4 w5", truncate=2, seed=1, max_tokens=5).text()
    assert kept == ask(engine, "w4 w5", seed=1, max_tokens=5).text()


def test_a_megabyte_is_refused_with_its_size(engine):
    with pytest.raises(InputError, match="1000000 bytes"):
        ask(engine, "x" * 1_000_000)


def test_a_stream_is_coalesced_and_the_same_as_the_whole(engine):
    streamed = ask(engine, seed=2, max_tokens=38, ignore_eos=True, stream=True, echo=True)
    whole = ask(engine, seed=2, max_tokens=38, ignore_eos=True, echo=True)
    assert streamed.text() == whole.text()
    assert streamed.text().startswith("w1 w2 ")
    assert 2 <= streamed.messages < 20


def test_a_caller_who_leaves_frees_the_slots_for_those_who_wait(folder):
    engine = engine_of(folder, slots=1, workers=1)
    held = threading.Event()
    step = engine._workers[0].decoder.step

    def slow(*arguments):
        held.wait(0.05)
        return step(*arguments)

    engine._workers[0].decoder.step = slow
    leaver = Listener(give_up_after=1)
    engine.submit("w1", GenerateParameters(max_tokens=1000, ignore_eos=True, stream=True), leaver)
    waiter = ask(engine, max_tokens=2, seed=1)
    assert waiter.text()
    assert leaver.ended.is_set()
    assert leaver.pieces[-1].finish_reason == "cancelled"
    assert len(leaver.text().split()) < POSITIONS - 1
    held.set()
    engine.close()


def test_a_caller_who_leaves_the_pool_frees_its_slots(folder):
    pool = EnginePool(folder, slots=1, workers=1)
    leavers = [Listener(give_up_after=1) for _ in range(4)]
    for leaver in leavers:
        pool.submit("w1", GenerateParameters(max_tokens=1000, ignore_eos=True, stream=True), leaver)
    assert ask(pool, max_tokens=2, seed=1).text()
    assert all(leaver.ended.wait(60) for leaver in leavers)
    pool.close()


def test_a_process_that_dies_fails_what_it_had_and_is_replaced(folder):
    pool = EnginePool(folder, slots=200, workers=1)
    text = ask(pool, max_tokens=5, seed=1).text()
    lost = pool._processes[0].process
    os.kill(lost.pid, signal.SIGSTOP)
    listeners = [ask(pool, max_tokens=1000, ignore_eos=True, seed=seed, stream=True) for seed in range(3)]
    lost.kill()
    assert all(listener.ended.wait(60) for listener in listeners)
    assert {type(listener.error) for listener in listeners} == {EngineLost}
    assert ask(pool, max_tokens=5, seed=1).text() == text
    pool.close()
    with pytest.raises(EngineLost):
        ask(pool)


def test_a_process_ends_with_its_pool(folder):
    script = f"from serving.text.pool import EnginePool; from pathlib import Path; p = EnginePool(Path({str(folder)!r}), workers=1); print(p._processes[0].process.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], 60)[0], "the process outlives its pool"
    os.close(child)


def test_a_model_that_cannot_be_loaded_says_why(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "decode_int8.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match=r"could not load the model: .*decode_int8"):
        EnginePool(tmp_path / "broken", workers=1)


@pytest.mark.parametrize("make", [engine_of, EnginePool])
def test_a_full_queue_refuses_and_everything_accepted_is_answered(folder, make):
    engine = make(folder, slots=2, workers=1, max_waiting=3)
    accepted, refused = [], 0
    for seed in range(60):
        try:
            accepted.append(ask(engine, seed=seed, max_tokens=30, ignore_eos=True))
        except QueueFull:
            refused += 1
    assert refused
    assert all(len(listener.text().split()) == 30 for listener in accepted)
    engine.close()


def test_a_failing_step_fails_only_those_it_was_for(threads):
    engine = threads

    def fail(*arguments):
        for other in engine._workers:
            other.decoder.__dict__.pop("step", None)
        raise RuntimeError("broken")

    for other in engine._workers:
        other.decoder.step = fail
    listener = ask(engine, max_tokens=5)
    assert listener.ended.wait(30)
    assert isinstance(listener.error, RuntimeError)
    assert ask(engine, max_tokens=5, seed=1).text()


@pytest.mark.parametrize("make", [engine_of, EnginePool])
def test_closing_ends_streams_as_cancelled(folder, make):
    engine = make(folder, slots=1, workers=1)
    listeners = [ask(engine, max_tokens=1000, ignore_eos=True, seed=i) for i in range(3)]
    engine.close()
    assert all(listener.ended.is_set() for listener in listeners)
