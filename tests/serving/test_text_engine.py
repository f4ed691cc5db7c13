"""The text engine on a small model: batching, limits, cancellation, errors."""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from export.language_model import variants
from export.language_model.export import round_to_float16
from language.vocabulary import Vocabulary
from reverie.errors import InputError
from serving.text.engine import Piece, QueueFull, Task, TextEngine, engine_of, joined, task_of
from serving.text.parameters import GenerateParameters
from serving.text.pool import _AHEAD, EngineLost, EnginePool
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


@pytest.mark.slow
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


@pytest.fixture
def four_slots(folder) -> Iterator[TextEngine]:
    """One worker of four slots, which all share every step."""
    running = engine_of(folder, slots=4, workers=1)
    yield running
    running.close()


def hold_steps(engine: TextEngine, after: int) -> threading.Event:
    """Let the engine make so many steps, and the next when the event is set."""
    step, count, may_go_on = engine._workers[0].decoder.step, itertools.count(1), threading.Event()

    def held(*arguments, **named):
        if next(count) > after:
            assert may_go_on.wait(30)
        return step(*arguments, **named)

    engine._workers[0].decoder.step = held
    return may_go_on


def take_time_by_rows(engine: TextEngine) -> list[int]:
    """Let a worker's clock advance by three and one for each row of a step; returns how many steps each slot took."""
    worker, now = engine._workers[0], [0.0]
    step, steps = worker.decoder.step, [0] * worker.decoder.slots

    def timed(tokens, positions, alone=False, first=0):
        now[0] += 3 + len(tokens)
        for slot in range(first, first + len(tokens)):
            steps[slot] += 1
        return step(tokens, positions, alone, first)

    worker.decoder.step, worker._clock = timed, lambda: now[0]
    return steps


def texts_of(listener: Listener) -> list[str]:
    """The text of each continuation."""
    indices = sorted({piece.index for piece in listener.pieces})
    return [joined(piece for piece in listener.pieces if piece.index == index) for index in indices]


def test_texts_that_reach_the_end_of_the_context_leave_the_others_alone(four_slots):
    endless = {"ignore_eos": True, "max_tokens": 1_000_000}
    alone = [ask(four_slots, seed=seed, **endless).text() for seed in (2, 3)]
    may_go_on = hold_steps(four_slots, after=5)
    first = ask(four_slots, n=3, seed=1, **endless)
    wait_until(lambda: four_slots._workers[0]._count[2] > 3)
    others = [ask(four_slots, seed=seed, **endless) for seed in (2, 3)]
    may_go_on.set()
    assert first.text()
    assert [other.text() for other in others] == alone


BAD = 250
"""The token that marks the row which fails; the others never write it."""


def break_step(engine: TextEngine) -> None:
    step = engine._workers[0].decoder.step

    def broken(tokens, *arguments, **named):
        if BAD in tokens:
            raise RuntimeError("broken")
        return step(tokens, *arguments, **named)

    engine._workers[0].decoder.step = broken


def spoil_logits(engine: TextEngine) -> None:
    step = engine._workers[0].decoder.step

    def spoiled(tokens, *arguments, **named):
        logits, maxima = step(tokens, *arguments, **named)
        logits[tokens == BAD] = maxima[tokens == BAD] = np.nan
        return logits, maxima

    engine._workers[0].decoder.step = spoiled


def break_prefill(engine: TextEngine) -> None:
    prefill = engine._workers[0].decoder.prefill

    def broken(slot, tokens, first):
        if BAD in tokens:
            raise RuntimeError("broken")
        prefill(slot, tokens, first)

    engine._workers[0].decoder.prefill = broken


def break_detokenizer(engine: TextEngine) -> None:
    class Broken(Vocabulary):
        def token_bytes(self, token: int) -> bytes:
            return super().token_bytes(token if token != BAD else 10**9)

    engine.tokenizer = Broken(engine.tokenizer.words)


def bad_task(prompt: tuple[int, ...] = (5, BAD), **parameters) -> Task:
    """A request of a row that fails, past the checks that would refuse it."""
    asked = GenerateParameters(max_tokens=20, ignore_eos=True, **parameters)
    return Task(asked, list(prompt), seed=1, echo="", indices=(0,))


@pytest.mark.parametrize(
    ("spoil", "task", "error"),
    [
        (break_step, bad_task(), RuntimeError),
        (spoil_logits, bad_task(), FloatingPointError),
        (spoil_logits, bad_task(top_p=0.5, temperature=0.5), FloatingPointError),
        (break_prefill, bad_task((BAD, 5)), RuntimeError),
        (break_detokenizer, bad_task(logit_bias={BAD: 100}, stream=True), IndexError),
        (lambda engine: None, bad_task((5, 10**6)), Exception),
        (lambda engine: None, bad_task((10**6, 5)), Exception),
        (lambda engine: None, bad_task(logit_bias={10**6: 1.0}), IndexError),
    ],
    ids=[
        "the step fails", "NaN", "NaN in a nucleus", "the prompt fails", "the text fails", "last token out of range",
        "first token out of range", "biased token out of range",
    ],
)  # fmt: skip
def test_a_row_that_fails_fails_no_other(four_slots, spoil, task, error):
    fine = {"max_tokens": 30, "ignore_eos": True, "logit_bias": {BAD: -100}, "top_p": 0.9}
    alone = [ask(four_slots, seed=seed, **fine).text() for seed in range(3)]
    spoil(four_slots)
    may_go_on = hold_steps(four_slots, after=3)
    others = [ask(four_slots, seed=seed, logprobs=1, **fine) for seed in range(3)]
    bad = Listener()
    four_slots.enqueue(task, bad)
    may_go_on.set()
    assert bad.ended.wait(30)
    assert isinstance(bad.error, error)
    assert [other.text() for other in others] == alone
    assert ask(four_slots, seed=0, **fine).text() == alone[0]


@pytest.mark.parametrize("parameters", [{"temperature": 1e-60}, {"repetition_penalty": 1e-60}], ids=str)
def test_the_smallest_numbers_accepted_fail_nobody(four_slots, parameters):
    alone = ask(four_slots, seed=1, max_tokens=20, ignore_eos=True).text()
    may_go_on = hold_steps(four_slots, after=2)
    other = ask(four_slots, seed=1, max_tokens=20, ignore_eos=True)
    extreme = ask(four_slots, top_p=0.5, max_tokens=20, ignore_eos=True, **parameters)
    may_go_on.set()
    assert len(extreme.text().split()) == 20
    assert other.text() == alone


def test_a_step_that_fails_once_fails_nobody(four_slots):
    decoder = four_slots._workers[0].decoder
    alone = ask(four_slots, max_tokens=9, seed=1, frequency_penalty=1).text()

    def fail(*arguments, **named):
        del decoder.step
        raise RuntimeError("broken")

    decoder.step = fail
    assert ask(four_slots, max_tokens=9, seed=1, frequency_penalty=1).text() == alone


class Gone(Listener):
    def cancelled(self):
        return True


class Broken(Listener):
    def cancelled(self):
        raise OSError("no such caller")


def test_a_caller_who_cannot_be_asked_counts_as_gone_and_the_next_is_still_asked(four_slots):
    may_go_on = hold_steps(four_slots, after=0)
    listeners = [Broken(), Gone()]
    for listener in listeners:
        four_slots.submit("w1", GenerateParameters(max_tokens=1000, ignore_eos=True), listener)
    wait_until(lambda: all(request.cancelled for request in four_slots._live))
    may_go_on.set()
    assert all(listener.ended.wait(30) and listener.error is None for listener in listeners)
    assert all(len(joined(listener.pieces).split()) < 5 for listener in listeners)


def test_a_pool_goes_on_asking_after_a_caller_who_cannot_be_asked(folder):
    pool = EnginePool(folder, slots=1, workers=1)
    os.kill(pool._processes[0].process.pid, signal.SIGSTOP)
    listeners = [Broken(), Gone()]
    for listener in listeners:
        pool.submit("w1", GenerateParameters(max_tokens=1000, ignore_eos=True), listener)
    wait_until(lambda: all(request.cancelled for request in pool._live))
    os.kill(pool._processes[0].process.pid, signal.SIGCONT)
    assert all(listener.ended.wait(30) for listener in listeners)
    pool.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_text_beside_sixteen_of_another_client_has_the_time_that_they_have(folder):
    engine = engine_of(folder, slots=20, workers=1)
    alone = ask(engine, seed=9, max_tokens=30, ignore_eos=True).text()
    spent = take_time_by_rows(engine)
    endless = GenerateParameters(n=16, seed=1, max_tokens=35, ignore_eos=True)
    greedy, lone, others_had = Listener(), Listener(), []
    lone.send = lambda pieces, last: (lone.pieces.extend(pieces), others_had.append(spent[0]), lone.ended.set())
    may_go_on = hold_steps(engine, after=0)
    engine.enqueue(task_of("w1 w2", endless, engine.tokenizer, engine.positions, "greedy"), greedy)
    wait_until(lambda: engine._workers[0].load == 16)
    one = GenerateParameters(seed=9, max_tokens=30, ignore_eos=True)
    engine.enqueue(task_of("w1 w2", one, engine.tokenizer, engine.positions, "lone"), lone)
    may_go_on.set()
    assert lone.text() == alone
    assert others_had[0] < 12  # steps of the sixteen, while the lone text took its thirty
    assert len(set(greedy.text().split())) > 1
    assert all(len(text.split()) == 35 for text in texts_of(greedy))
    engine.close()


@pytest.mark.parametrize("parameters", [{}, {"frequency_penalty": 1.5}])
def test_a_prompt_taken_in_beside_others_steps_gives_the_same_text_as_alone(four_slots, monkeypatch, parameters):
    monkeypatch.setattr("serving.text.engine.PREFILL_CHUNK", 2)
    monkeypatch.setattr("serving.text.engine.PREFILL_BUDGET", 2)
    prompt, asked = (
        " ".join(f"w{i}" for i in range(20)),
        {"seed": 7, "max_tokens": 15, "ignore_eos": True, **parameters},
    )
    alone = ask(four_slots, prompt, **asked).text()
    endless = ask(four_slots, n=3, seed=1, ignore_eos=True, max_tokens=1_000_000)
    wait_until(lambda: four_slots._workers[0].load == 3)
    assert ask(four_slots, prompt, **asked).text() == alone
    assert endless.text()


def test_nobody_waits_behind_another_s_hundred_continuations(folder):
    pool = EnginePool(folder, slots=2, workers=1)
    os.kill(pool._processes[0].process.pid, signal.SIGSTOP)  # until all are queued
    endless = {"max_tokens": 1000, "ignore_eos": True, "seed": 1}
    greedy = [Listener() for _ in range(4)]
    for listener in greedy:
        pool.submit("w1", GenerateParameters(n=60, stream=True, **endless), listener, "greedy")
    lone = Listener()
    lone.send = lambda pieces, last: (lone.pieces.extend(pieces), ended.append(count()), lone.ended.set())
    ended: list[int] = []

    def count() -> int:
        return sum(bool(piece.finish_reason) for listener in greedy for piece in listener.pieces)

    pool.submit("w1", GenerateParameters(**endless), lone, "lone")
    os.kill(pool._processes[0].process.pid, signal.SIGCONT)
    assert lone.ended.wait(30)
    assert ended[0] <= 4  # those that began with it; 236 are left
    pool.close()


def test_one_client_has_the_slots_that_it_was_given_and_leaves_some(folder):
    pool = EnginePool(folder, slots=8, workers=2)
    for process in pool._processes:
        os.kill(process.process.pid, signal.SIGSTOP)
    listeners = [Listener() for _ in range(2)]
    for listener, client in zip(listeners, ["greedy", ""], strict=True):
        pool.submit("w1", GenerateParameters(n=40), listener, client)
    held = [process.load_of("greedy") for process in pool._processes]
    assert held == [4 + _AHEAD] * 2  # _AHEAD of them wait there
    assert [process.load_of("") for process in pool._processes] == [1, 1]
    for process in pool._processes:
        os.kill(process.process.pid, signal.SIGCONT)
    assert all(len(listener.pieces) == 40 for listener in listeners if listener.ended.wait(60))
    assert not pool._places._taken
    pool.close()


def test_a_client_may_have_so_many_continuations_and_leaves_as_many_to_others(folder):
    pool = EnginePool(folder, slots=2, workers=1, max_waiting=100)
    os.kill(pool._processes[0].process.pid, signal.SIGSTOP)
    listeners = [ask(pool, n=100, max_tokens=1)]
    with pytest.raises(QueueFull, match=r"100 continuations of callers without a name .* at most 102 of one client"):
        ask(pool, n=3)
    listeners.append(Listener())
    pool.submit("w1", GenerateParameters(n=100, max_tokens=1), listeners[1], "another")
    os.kill(pool._processes[0].process.pid, signal.SIGCONT)
    assert all(listener.text() for listener in listeners)
    assert ask(pool, n=102, max_tokens=1).text()
    pool.close()


@pytest.mark.parametrize("make", [engine_of, EnginePool])
def test_closing_ends_streams_as_cancelled(folder, make):
    engine = make(folder, slots=1, workers=1)
    listeners = [ask(engine, max_tokens=1000, ignore_eos=True, seed=i) for i in range(3)]
    engine.close()
    assert all(listener.ended.is_set() for listener in listeners)
