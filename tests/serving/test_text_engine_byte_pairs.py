"""The text engine on the architecture of the preset `reviews`, over byte pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from export.language_model import variants
from export.language_model.export import round_to_float16
from language.byte_pairs import BytePairs
from language.tokenizer import Tokenizer, load_tokenizer
from reverie.errors import InputError
from serving.text.decoder import PREFILL_CHUNK
from serving.text.pool import EnginePool
from serving.text.request import TokenLogprobs, joined
from tests.serving.text_engines import SteppedEngine, ask
from training.language_model.pre_norm import PreNormConfig, PreNormLanguageModel

POSITIONS = 2 * PREFILL_CHUNK + 40
TEXTS = ["A film about a café: 10/10!", "Ça va? Très bien 🎬🎬", "שלום עולם", "The plot is thin. Twice."] * 4
TOKENIZER = BytePairs.from_texts(TEXTS, 320)
"""Of a few tokens less; the model must not have more than it."""


@pytest.fixture(scope="module")
def model() -> PreNormLanguageModel:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    model = PreNormLanguageModel(PreNormConfig(len(TOKENIZER), POSITIONS, 32, 64, 2, 2))
    model(np.zeros((1, 2), np.int32))
    for variable in model.variables:
        if len(variable.shape) == 2:  # as built, all tokens are alike
            variable.assign(variable * 8)
    round_to_float16(model)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("byte_pairs")
    rows = np.random.default_rng(0).integers(0, len(TOKENIZER), (4, POSITIONS))
    variants.save(variants.graphs(model, variants.calibrate(model, rows)), path)
    TOKENIZER.save(path)
    return path


@pytest.fixture(scope="module")
def engine(folder) -> Iterator[EnginePool]:
    running = EnginePool(folder, "float32", slots=8, workers=2)
    yield running
    running.close()


def greedy_by_keras(model, tokenizer, prompt: str, tokens: int) -> str:
    ids = [*tokenizer.begin, *tokenizer.encode(prompt)]
    for _ in range(tokens):
        ids.append(int(keras.ops.convert_to_numpy(model(np.array([ids], np.int32)))[0, -1].argmax()))
    return b"".join(map(tokenizer.token_bytes, ids[-tokens:])).decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, 1, 9])
def test_prompts_shorter_and_longer_than_a_chunk_continue_as_keras_says(model, folder, engine, times):
    prompt = "The plot: a café! " * times
    tokenizer = load_tokenizer(folder)
    assert (len(tokenizer.encode(prompt)) > PREFILL_CHUNK) == (times == 9)
    expected = greedy_by_keras(model, tokenizer, prompt, 12)
    assert ask(engine, prompt, temperature=0, max_tokens=12, ignore_eos=True).text() == expected


@pytest.mark.slow
def test_continuations_share_one_prefill_and_are_those_of_separate_ones(folder):
    def continuations(slots: int) -> tuple[list[str], int]:
        engine, calls = SteppedEngine(folder, slots, "float32"), []
        prefill = engine.decoder.prefill

        def counted(*arguments):
            calls.append(arguments)
            return prefill(*arguments)

        engine.decoder.prefill = counted  # type: ignore[method-assign]
        return engine.ask("The plot is", n=5, seed=4, max_tokens=10, ignore_eos=True).texts(), len(calls)

    shared, once = continuations(slots=5)
    separate, each = continuations(slots=1)
    assert (once, each) == (1, 5)
    assert shared == separate
    assert len(set(shared)) == 5


@pytest.mark.parametrize("prompt", ["🎬 café", "שלום", "a\0b", "e\u0301", "\ufffd"])
def test_a_stream_never_splits_a_character_and_is_the_whole_text(engine, prompt):
    asked = {"seed": 3, "max_tokens": 60, "temperature": 1.0, "ignore_eos": True, "echo": True}
    streamed, whole = ask(engine, prompt, stream=True, **asked), ask(engine, prompt, **asked)
    assert streamed.text() == whole.text()
    assert whole.text().startswith(prompt)
    assert len(streamed.deltas) > 1


def shown(tokenizer: Tokenizer, tokens: Iterable[TokenLogprobs]) -> bytes:
    return b"".join(tokenizer.token_bytes(t.token)[: t.shown] for t in tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_cover_the_text_wherever_a_stop_string_cuts_it(folder, engine, stream):
    tokenizer = load_tokenizer(folder)
    lead, second = (next(t for t in range(len(tokenizer)) if tokenizer.token_bytes(t) == b) for b in (b"\xc3", b"\xa9"))
    asked = {"seed": 5, "max_tokens": 24, "ignore_eos": True, "logprobs": 1, "logit_bias": {lead: 5, second: 5}}
    whole = ask(engine, "Ça", **asked).text()
    stops = [whole[i : i + length] for i in range(0, len(whole) - 3, 2) for length in (1, 3)]
    listeners = [ask(engine, "Ça", stop=[stop, "never"], stream=stream, **asked) for stop in stops]
    for stop, listener in zip(stops, listeners, strict=True):
        text = listener.text()
        assert text == whole[: whole.index(stop)]
        covered = [shown(tokenizer, delta.logprobs) for delta in listener.deltas]
        assert b"".join(covered).decode("utf-8", "replace") == text
        # No delta has tokens of a text that is not yet shown.
        for i in range(len(covered)):
            assert len(b"".join(covered[:i]).decode("utf-8", "replace")) <= len(joined(listener.deltas[:i]))


@pytest.mark.parametrize(("prompt", "n"), [("", 1), ("A", 1), ("The plot: a café! 🎬 " * 9, 3)])
def test_an_echoed_prompt_has_the_log_probabilities_that_keras_gives_it(model, folder, engine, prompt, n):
    tokenizer = load_tokenizer(folder)
    ids = [*tokenizer.begin, *tokenizer.encode(prompt)]
    asked = {"seed": 4, "n": n, "max_tokens": 8, "ignore_eos": True}
    others = [ask(engine, "The plot", seed=i, max_tokens=60, ignore_eos=True) for i in range(3)]
    echoed, plain = (ask(engine, prompt, **asked, **more) for more in ({"echo": True, "logprobs": 2}, {}))
    assert plain.text()
    assert echoed.text() == "".join(prompt + delta.text for delta in plain.deltas)
    assert all(other.text() for other in others)
    expected = keras.ops.convert_to_numpy(keras.ops.log_softmax(model(np.array([ids], np.int32))[0]))
    for delta in echoed.deltas:
        assert shown(tokenizer, delta.logprobs).decode("utf-8", "replace") == delta.text
        of_prompt = delta.logprobs[: len(ids) - 1]
        assert [t.token for t in of_prompt] == ids[1:]
        assert [t.logprobs for t in of_prompt[:1]] == [None] * bool(prompt)
        for place, entry in enumerate(of_prompt[1:], 1):
            assert entry.logprobs is not None
            assert entry.logprobs.chosen == pytest.approx(expected[place, ids[place + 1]], abs=0.05)
            assert entry.logprobs.top[0][1] == pytest.approx(expected[place].max(), abs=0.05)


def test_a_long_prompt_beside_other_streams_is_continued_as_alone(engine):
    """Its prefill takes several of their steps."""
    asked = {"text": "The plot: a café! " * 12, "seed": 4, "max_tokens": 10, "ignore_eos": True}
    asked |= {"repetition_penalty": 1.3, "truncate": POSITIONS - 12}
    alone = ask(engine, **asked).text()
    others = [ask(engine, "The plot", seed=i, max_tokens=60, ignore_eos=True) for i in range(3)]
    beside = [ask(engine, **asked) for _ in range(3)]
    assert [listener.text() for listener in beside] == [alone] * 3
    assert all(other.text() for other in others)


def test_of_a_truncated_prompt_that_is_echoed_what_the_model_did_not_see_has_no_log_probability(folder, engine):
    tokenizer, prompt = load_tokenizer(folder), "The plot is thin. Twice. " * 20
    listener = ask(engine, prompt, truncate=5, echo=True, logprobs=0, seed=1, max_tokens=3, ignore_eos=True)
    assert listener.text().startswith(prompt)
    (delta,) = listener.deltas
    assert shown(tokenizer, delta.logprobs).decode("utf-8", "replace") == delta.text
    nulls = [t.logprobs is None for t in delta.logprobs]
    assert nulls == [True] * (len(nulls) - 7) + [False] * 7
    with pytest.raises(InputError, match="at most 100000"):
        ask(engine, "a" * 100_001, truncate=5, echo=True, logprobs=0)


def test_a_lone_surrogate_is_refused(engine):
    with pytest.raises((InputError, UnicodeEncodeError), match="surrogate"):
        ask(engine, "a\ud800b")


def test_a_long_text_is_truncated_to_its_end_where_asked(engine, folder):
    text = "The plot is thin. " * 1000
    tokens = load_tokenizer(folder).encode(text)
    with pytest.raises(InputError, match=rf"{len(text)} bytes|{len(tokens)} tokens"):
        ask(engine, text)
    kept = ask(engine, text, truncate=10, temperature=0, max_tokens=5).text()
    assert kept == ask(engine, text[-200:], truncate=10, temperature=0, max_tokens=5).text()
