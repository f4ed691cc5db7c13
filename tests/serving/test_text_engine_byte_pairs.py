"""The text engine on the architecture of the preset `reviews`, over byte pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from export.language_model import round_to_float16
from export.text import variants
from language.byte_pairs import BytePairs
from language.tokenizer import load_tokenizer
from serving.text.decoder import PREFILL_CHUNK
from serving.text.engine import TextEngine, engine_of
from synthesis.errors import InputError
from tests.serving.test_text_engine import ask
from training.language_model.pre_norm import PreNormConfig, PreNormLanguageModel

POSITIONS = 2 * PREFILL_CHUNK + 40
TEXTS = ["A film about a café: 10/10!", "Ça va? Très bien 🎬🎬", "שלום עולם", "The plot is thin. Twice."] * 4


@pytest.fixture(scope="module")
def model() -> PreNormLanguageModel:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    model = PreNormLanguageModel(PreNormConfig(320, POSITIONS, 32, 64, 2, 2))
    model(np.zeros((1, 2), np.int32))
    for variable in model.variables:
        if len(variable.shape) == 2:  # as built, all tokens are alike
            variable.assign(variable * 8)
    round_to_float16(model)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("byte_pairs")
    rows = np.random.default_rng(0).integers(0, 320, (4, POSITIONS))
    variants.save(variants.graphs(model, variants.calibrate(model, rows)), path)
    BytePairs.from_texts(TEXTS, 320).save(path)
    return path


@pytest.fixture
def engine(folder) -> Iterator[TextEngine]:
    running = engine_of(folder, "float32", slots=8, workers=2)
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


def test_continuations_share_one_prefill_and_are_those_of_separate_ones(folder):
    def continuations(slots: int) -> tuple[list[str], int]:
        engine = engine_of(folder, "float32", slots=slots, workers=1)
        decoder = engine._workers[0].decoder
        prefill, calls = decoder.prefill, []

        def counted(*arguments):
            calls.append(arguments)
            return prefill(*arguments)

        decoder.prefill = counted  # type: ignore[method-assign]
        listener = ask(engine, "The plot is", n=5, seed=4, max_tokens=10, ignore_eos=True)
        listener.text()
        engine.close()
        return [piece.text for piece in listener.pieces], len(calls)

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
    assert len(streamed.pieces) > 1


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
