"""The text engines of a pool on a small model: batching, limits, fairness, cancellation, processes that die."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reverie.errors import InputError
from serving.text.parameters import GenerateParameters
from serving.text.pool import EnginePool
from serving.text.request import EngineLost, QueueFull
from tests.serving.text_engines import POSITIONS, Listener, ask, wait_until, word_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("engine")
    word_model(path)
    return path


@pytest.fixture(scope="module")
def pool(folder) -> Iterator[EnginePool]:
    running = EnginePool(folder, slots=8, workers=2, max_waiting=4000)
    yield running
    running.close()


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
def test_two_hundred_parameter_sets_give_the_same_text_alone_and_in_a_full_batch(pool):
    rng = np.random.default_rng(0)
    asked = [
        (" ".join(f"w{i}" for i in rng.integers(0, 299, rng.integers(1, 9))), random_parameters(rng))
        for _ in range(200)
    ]
    alone = [ask(pool, text, **parameters).text() for text, parameters in asked]
    together = [ask(pool, text, **parameters) for text, parameters in asked]
    assert [listener.text() for listener in together] == alone
    assert len(set(alone)) > 150


def test_greedy_beside_others_stays_greedy_and_leaves_them_alone(pool):
    alone = ask(pool, temperature=1.0, seed=3, max_tokens=20).text()
    greedy = ask(pool, temperature=0, max_tokens=20).text()
    first, second = ask(pool, temperature=1.0, seed=3, max_tokens=20), ask(pool, temperature=0, max_tokens=20)
    assert (first.text(), second.text()) == (alone, greedy)


def test_a_stop_string_ends_the_text_across_tokens_and_is_not_shown(pool):
    whole = ask(pool, seed=1, max_tokens=20, ignore_eos=True).text()
    words = whole.split()
    stop = f"{words[5][-1]} {words[6][:2]}"
    listener = ask(pool, seed=1, max_tokens=20, ignore_eos=True, stop=[stop])
    assert listener.text() == whole[: whole.index(stop)]
    assert listener.deltas[-1].finish_reason == "stop"


def test_continuations_are_ordered_repeatable_and_different(pool):
    listeners = [ask(pool, n=12, seed=5, max_tokens=8) for _ in range(2)]
    texts = [[(d.index, d.text) for d in listener.deltas] for listener in listeners if listener.text() is not None]
    assert texts[0] == texts[1]
    assert [index for index, _ in texts[0]] == list(range(12))
    assert len({text for _, text in texts[0]}) > 9


def test_prompts_of_every_length(pool):
    for words in (1, POSITIONS - 1, POSITIONS):
        listener = ask(pool, "w3 " * words, max_tokens=1000, ignore_eos=True, seed=1)
        assert len(listener.text().split()) == POSITIONS - words + 1
        assert listener.deltas[-1].finish_reason == "length"
    for words in (0, POSITIONS + 1, 5000):
        with pytest.raises(InputError, match=rf"{words} tokens; accepted: 1 to {POSITIONS} tokens|bytes"):
            ask(pool, "w3 " * words)
    kept = ask(pool, "w9 " * 5000 + "w4 w5", truncate=2, seed=1, max_tokens=5).text()
    assert kept == ask(pool, "w4 w5", seed=1, max_tokens=5).text()


def test_a_megabyte_is_refused_with_its_size(pool):
    with pytest.raises(InputError, match="1000000 bytes"):
        ask(pool, "x" * 1_000_000)


def test_a_stream_is_coalesced_and_the_same_as_the_whole(pool):
    streamed = ask(pool, seed=2, max_tokens=38, ignore_eos=True, stream=True, echo=True)
    whole = ask(pool, seed=2, max_tokens=38, ignore_eos=True, echo=True)
    assert streamed.text() == whole.text()
    assert streamed.text().startswith("w1 w2 ")
    assert 2 <= streamed.messages < 20


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
    (lost,) = pool.pids()
    os.kill(lost, signal.SIGSTOP)
    listeners = [ask(pool, max_tokens=1000, ignore_eos=True, seed=seed, stream=True) for seed in range(3)]
    os.kill(lost, signal.SIGKILL)
    assert all(listener.ended.wait(60) for listener in listeners)
    assert {type(listener.error) for listener in listeners} == {EngineLost}
    assert ask(pool, max_tokens=5, seed=1).text() == text
    pool.close()
    with pytest.raises(EngineLost):
        ask(pool)


def test_a_process_ends_with_its_pool(folder):
    script = f"from serving.text.pool import EnginePool; from pathlib import Path; p = EnginePool(Path({str(folder)!r}), workers=1); print(*p.pids(), flush=True); input()"
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


def test_a_full_queue_refuses_and_everything_accepted_is_answered(folder):
    pool = EnginePool(folder, slots=2, workers=1, max_waiting=3)
    accepted, refused = [], 0
    for seed in range(60):
        try:
            accepted.append(ask(pool, seed=seed, max_tokens=30, ignore_eos=True))
        except QueueFull:
            refused += 1
    assert refused
    assert all(len(listener.text().split()) == 30 for listener in accepted)
    pool.close()


class Gone(Listener):
    asked = False

    def cancelled(self):
        self.asked = True
        return True


class Broken(Gone):
    def cancelled(self):
        super().cancelled()
        raise OSError("no such caller")


def test_a_caller_who_cannot_be_asked_counts_as_gone_and_the_next_is_still_asked(folder):
    pool = EnginePool(folder, slots=1, workers=1)
    os.kill(pool.pids()[0], signal.SIGSTOP)
    listeners = [Broken(), Gone()]
    for listener in listeners:
        pool.submit("w1", GenerateParameters(max_tokens=1000, ignore_eos=True), listener)
    wait_until(lambda: all(listener.asked for listener in listeners))
    os.kill(pool.pids()[0], signal.SIGCONT)
    assert all(listener.ended.wait(30) for listener in listeners)
    pool.close()


def test_nobody_waits_behind_another_s_hundred_continuations(folder):
    pool = EnginePool(folder, slots=2, workers=1)
    os.kill(pool.pids()[0], signal.SIGSTOP)  # until all are queued
    endless = {"max_tokens": 1000, "ignore_eos": True, "seed": 1}
    greedy = [Listener() for _ in range(4)]
    for listener in greedy:
        pool.submit("w1", GenerateParameters(n=60, stream=True, **endless), listener, "greedy")
    lone = Listener()
    lone.send = lambda deltas, last: (lone.deltas.extend(deltas), ended.append(count()), lone.ended.set())
    ended: list[int] = []

    def count() -> int:
        return sum(bool(delta.finish_reason) for listener in greedy for delta in listener.deltas)

    pool.submit("w1", GenerateParameters(**endless), lone, "lone")
    os.kill(pool.pids()[0], signal.SIGCONT)
    assert lone.ended.wait(30)
    assert ended[0] <= 4  # those that began with it; 236 are left
    pool.close()


def test_one_client_has_the_slots_that_it_was_given_and_leaves_some(folder):
    pool = EnginePool(folder, slots=8, workers=2)
    for pid in pool.pids():
        os.kill(pid, signal.SIGSTOP)
    listeners = [Listener() for _ in range(2)]
    for listener, client in zip(listeners, ["greedy", ""], strict=True):
        pool.submit("w1", GenerateParameters(n=40), listener, client)
    assert pool.loads("greedy") == [4 + 2] * 2  # two of them wait there
    assert pool.loads("") == [1, 1]
    for pid in pool.pids():
        os.kill(pid, signal.SIGCONT)
    assert all(len(listener.deltas) == 40 for listener in listeners if listener.ended.wait(60))
    assert pool.continuations.taken == pool.admission.taken == 0
    pool.close()


def test_a_client_may_have_so_many_continuations_and_leaves_as_many_to_others(folder):
    pool = EnginePool(folder, slots=2, workers=1, max_waiting=100)
    os.kill(pool.pids()[0], signal.SIGSTOP)
    listeners = [ask(pool, n=100, max_tokens=1)]
    with pytest.raises(QueueFull, match=r"100 continuations of callers without a name .* at most 102 of one client"):
        ask(pool, n=3)
    listeners.append(Listener())
    pool.submit("w1", GenerateParameters(n=100, max_tokens=1), listeners[1], "another")
    os.kill(pool.pids()[0], signal.SIGCONT)
    assert all(listener.text() for listener in listeners)
    assert ask(pool, n=102, max_tokens=1).text()
    pool.close()


def test_a_request_holds_the_place_that_it_came_with_until_its_text_has_ended(pool):
    place, listener = pool.admission.reserve("client"), Listener()
    with pytest.raises(InputError):
        pool.submit("", GenerateParameters(), listener, "client", place)
    assert pool.admission.taken == 1  # whoever took it can answer, and then give it back
    for pid in pool.pids():
        os.kill(pid, signal.SIGSTOP)
    pool.submit("w1", GenerateParameters(max_tokens=2), listener, "client", place)
    place.release()
    assert pool.admission.taken == 1
    for pid in pool.pids():
        os.kill(pid, signal.SIGCONT)
    assert listener.text()
    assert pool.admission.taken == 0


def test_closing_ends_streams_as_cancelled(folder):
    pool = EnginePool(folder, slots=1, workers=1)
    listeners = [ask(pool, max_tokens=1000, ignore_eos=True, seed=i) for i in range(3)]
    pool.close()
    assert all(listener.ended.is_set() for listener in listeners)
