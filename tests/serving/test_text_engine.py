"""One text engine on a small model, step by step: who shares a step, who leaves it, and what fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from language.vocabulary import Vocabulary
from serving.text.parameters import GenerateParameters
from serving.text.request import Task
from tests.serving.text_engines import POSITIONS, Listener, SteppedEngine, word_model

ENDLESS = {"ignore_eos": True, "max_tokens": 1_000_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("engine")
    word_model(path)
    return path


@pytest.fixture
def four_slots(folder) -> SteppedEngine:
    """An engine of four slots, which all share every step."""
    return SteppedEngine(folder, slots=4)


def test_a_text_that_is_cancelled_frees_its_slot_for_those_who_wait(folder):
    engine = SteppedEngine(folder, slots=1)
    leaver, waiter = engine.ask(stream=True, **ENDLESS), engine.ask(max_tokens=2, seed=1)
    engine.step(3)
    assert (engine.engine.load, engine.engine.waiting) == (1, 1)
    engine.cancel(leaver)
    engine.step()
    assert leaver.ended.is_set()
    assert leaver.deltas[-1].finish_reason == "cancelled"
    assert 3 <= len(leaver.text().split()) < POSITIONS - 1
    assert waiter.text()
    assert engine.engine.is_idle


def test_a_text_that_is_cancelled_before_it_begins_ends_without_a_word(folder):
    engine = SteppedEngine(folder, slots=1)
    first, waiter = engine.ask(max_tokens=9, seed=1), engine.ask(max_tokens=9, seed=1, stream=True)
    engine.step()
    engine.cancel(waiter)
    engine.step()
    assert waiter.ended.is_set()
    assert waiter.deltas == []
    assert first.text()
    assert engine.engine.is_idle


def test_what_has_ended_can_be_cancelled_without_harm(four_slots):
    assert four_slots.ask(max_tokens=2, seed=1).text()
    four_slots.engine.cancel(0)
    assert four_slots.engine.is_idle


def test_texts_that_reach_the_end_of_the_context_leave_the_others_alone(four_slots):
    alone = [four_slots.ask(seed=seed, **ENDLESS).text() for seed in (2, 3)]
    first = four_slots.ask(n=3, seed=1, **ENDLESS)
    four_slots.step(5)
    others = [four_slots.ask(seed=seed, **ENDLESS) for seed in (2, 3)]
    assert first.text()
    assert [other.text() for other in others] == alone


BAD = 250
"""The token that marks the row which fails; the others never write it."""


def break_step(engine: SteppedEngine, patch: pytest.MonkeyPatch) -> None:
    step = engine.decoder.step

    def broken(tokens, *arguments, **named):
        if BAD in tokens:
            raise RuntimeError("broken")
        return step(tokens, *arguments, **named)

    patch.setattr(engine.decoder, "step", broken)


def spoil_logits(engine: SteppedEngine, patch: pytest.MonkeyPatch) -> None:
    step = engine.decoder.step

    def spoiled(tokens, *arguments, **named):
        logits, maxima = step(tokens, *arguments, **named)
        logits[tokens == BAD] = maxima[tokens == BAD] = np.nan
        return logits, maxima

    patch.setattr(engine.decoder, "step", spoiled)


def break_prefill(engine: SteppedEngine, patch: pytest.MonkeyPatch) -> None:
    prefill = engine.decoder.prefill

    def broken(slot, tokens, first):
        if BAD in tokens:
            raise RuntimeError("broken")
        prefill(slot, tokens, first)

    patch.setattr(engine.decoder, "prefill", broken)


def break_detokenizer(engine: SteppedEngine, patch: pytest.MonkeyPatch) -> None:
    token_bytes = Vocabulary.token_bytes
    patch.setattr(Vocabulary, "token_bytes", lambda self, token: token_bytes(self, token if token != BAD else 10**9))


def break_nothing(engine: SteppedEngine, patch: pytest.MonkeyPatch) -> None:
    pass


def bad_task(prompt: tuple[int, ...] = (5, BAD), **parameters) -> Task:
    """A request of a row that fails, past the checks that would refuse it."""
    asked = GenerateParameters(max_tokens=20, ignore_eos=True, **parameters)
    return Task(asked, list(prompt), seed=1, echo="")


@pytest.mark.parametrize(
    ("spoil", "task", "error"),
    [
        (break_step, bad_task(), RuntimeError),
        (spoil_logits, bad_task(), FloatingPointError),
        (spoil_logits, bad_task(top_p=0.5, temperature=0.5), FloatingPointError),
        (break_prefill, bad_task((BAD, 5)), RuntimeError),
        (break_detokenizer, bad_task(logit_bias={BAD: 100}, stream=True), IndexError),
        (break_nothing, bad_task((5, 10**6)), Exception),
        (break_nothing, bad_task((10**6, 5)), Exception),
        (break_nothing, bad_task(logit_bias={10**6: 1.0}), IndexError),
    ],
    ids=[
        "the step fails", "NaN", "NaN in a nucleus", "the prompt fails", "the text fails", "last token out of range",
        "first token out of range", "biased token out of range",
    ],
)  # fmt: skip
def test_a_row_that_fails_fails_no_other(four_slots, monkeypatch, spoil, task, error):
    fine = {"max_tokens": 30, "ignore_eos": True, "logit_bias": {BAD: -100}, "top_p": 0.9}
    alone = [four_slots.ask(seed=seed, **fine).text() for seed in range(3)]
    spoil(four_slots, monkeypatch)
    others = [four_slots.ask(seed=seed, logprobs=1, **fine) for seed in range(3)]
    four_slots.step(4)
    bad = Listener(work=four_slots.step)
    four_slots.add(task, bad)
    bad.wait()
    assert isinstance(bad.error, error)
    assert [other.text() for other in others] == alone
    assert four_slots.ask(seed=0, **fine).text() == alone[0]


@pytest.mark.parametrize("parameters", [{"temperature": 1e-60}, {"repetition_penalty": 1e-60}], ids=str)
def test_the_smallest_numbers_accepted_fail_nobody(four_slots, parameters):
    alone = four_slots.ask(seed=1, max_tokens=20, ignore_eos=True).text()
    other = four_slots.ask(seed=1, max_tokens=20, ignore_eos=True)
    four_slots.step(2)
    extreme = four_slots.ask(top_p=0.5, max_tokens=20, ignore_eos=True, **parameters)
    assert len(extreme.text().split()) == 20
    assert other.text() == alone


def test_a_step_that_fails_once_fails_nobody(four_slots):
    decoder = four_slots.decoder
    alone = four_slots.ask(max_tokens=9, seed=1, frequency_penalty=1).text()

    def fail(*arguments, **named):
        del decoder.step
        raise RuntimeError("broken")

    decoder.step = fail
    assert four_slots.ask(max_tokens=9, seed=1, frequency_penalty=1).text() == alone


def take_time_by_rows(engine: SteppedEngine, now: list[float]) -> list[int]:
    """Let a clock advance by three and one for each row of a step; returns how many steps each slot took."""
    step, steps = engine.decoder.step, [0] * engine.decoder.slots

    def timed(tokens, positions, alone=False, first=0):
        now[0] += 3 + len(tokens)
        for slot in range(first, first + len(tokens)):
            steps[slot] += 1
        return step(tokens, positions, alone, first)

    engine.decoder.step = timed  # type: ignore[method-assign]
    return steps


def test_one_text_beside_sixteen_of_another_client_has_the_time_that_they_have(folder):
    now = [0.0]
    engine = SteppedEngine(folder, slots=20, clock=lambda: now[0])
    alone = engine.ask(seed=9, max_tokens=30, ignore_eos=True).text()
    spent = take_time_by_rows(engine, now)
    greedy = engine.ask(client="greedy", n=16, seed=1, max_tokens=35, ignore_eos=True)
    lone = engine.ask(client="lone", seed=9, max_tokens=30, ignore_eos=True)
    assert lone.text() == alone
    assert spent[0] < 12  # steps of the sixteen, while the lone text took its thirty
    assert len(set(greedy.text().split())) > 1
    assert all(len(text.split()) == 35 for text in greedy.texts())


def test_a_client_has_the_slots_that_it_was_given_and_another_the_rest(folder):
    engine = SteppedEngine(folder, slots=4, of_one=3)
    engine.ask(client="greedy", n=9, seed=1, **ENDLESS)
    engine.step()
    assert (engine.engine.load, engine.engine.waiting) == (3, 6)
    engine.ask(client="lone", seed=1, **ENDLESS)
    engine.step()
    assert (engine.engine.load, engine.engine.waiting) == (4, 6)


@pytest.mark.parametrize("parameters", [{}, {"frequency_penalty": 1.5}])
def test_a_prompt_taken_in_beside_others_steps_gives_the_same_text_as_alone(four_slots, monkeypatch, parameters):
    monkeypatch.setattr("serving.text.prefill.PREFILL_CHUNK", 2)
    monkeypatch.setattr("serving.text.engine.PREFILL_BUDGET", 2)
    prompt = " ".join(f"w{i}" for i in range(20))
    asked = {"seed": 7, "max_tokens": 15, "ignore_eos": True, **parameters}
    alone = four_slots.ask(prompt, **asked).text()
    endless = four_slots.ask(n=3, seed=1, **ENDLESS)
    while four_slots.engine.load < 3:
        four_slots.step()
    assert four_slots.ask(prompt, **asked).text() == alone
    assert endless.text()
