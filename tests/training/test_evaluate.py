import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from language.byte_pairs import BytePairs
from language.vocabulary import Vocabulary
from reverie.cli import cli
from training.language_model import evaluate
from training.language_model.evaluate import Scored
from training.language_model.pre_norm import PreNormConfig
from training.language_model.train import LanguageModelTraining, train
from training.loop import Schedule

pytestmark = pytest.mark.tensorflow

TEXTS = ["A film about a café: 10/10!", "The plot is thin.  Twice.", "Good." * 30]


def uniform(tokenizer, positions=8):
    """A model for which all tokens are as likely, and that continues a prompt with nothing."""

    def losses(inputs, targets):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] <= positions
        return np.where(targets >= 0, math.log(len(tokenizer)), 0.0)

    return Scored(tokenizer, positions, losses, lambda prompt, tokens, temperatures, seeds: [prompt] * len(seeds))


@pytest.fixture(scope="module")
def byte_pairs():
    return BytePairs.from_texts(TEXTS, 280)


def test_a_uniform_word_model_has_the_perplexity_of_its_vocabulary():
    words = Vocabulary(["", "[UNK]", "a", "film", "about"])
    figures = evaluate.evaluate(uniform(words, positions=100), TEXTS)
    assert figures["book_word_perplexity"] == pytest.approx(5)
    assert figures["bits_per_byte"] is None
    assert figures["predictions"] == 5 + 4  # "good" thirty times without spaces is one word


def test_the_first_hundred_words_of_a_review_are_predicted():
    words = Vocabulary(["", "[UNK]", "a"])
    assert evaluate.book_word_perplexity(uniform(words, 100), ["a " * 500])["predictions"] == 99


def test_bits_per_byte_are_those_of_the_raw_text_with_its_end(byte_pairs):
    figures = evaluate.evaluate(uniform(byte_pairs), TEXTS)
    tokens = sum(len(byte_pairs.encode(text)) + 1 for text in TEXTS)
    raw = sum(len(text.encode()) for text in TEXTS)
    assert figures["predictions"] == tokens
    assert figures["bits_per_byte"] == pytest.approx(tokens * math.log2(len(byte_pairs)) / raw)
    assert figures["book_word_perplexity"] is None


@given(st.integers(0, 60), st.integers(2, 12))
def test_windows_predict_every_token_once_with_half_a_context_before_it(byte_pairs, count, positions):
    ids = list(range(1, count + 1))
    predicted = []
    for row in evaluate.windows(uniform(byte_pairs, positions), ids):
        assert len(row.ids) <= positions + 1
        for i, token in enumerate(row.ids[1:]):
            if i >= row.first_counted:
                predicted.append(token)
                assert i + 1 >= min(positions - positions // 2, len(predicted))
    assert predicted == [*ids, 0]


def test_the_same_reviews_are_chosen_for_a_seed():
    texts = [str(i) for i in range(100)]
    assert evaluate.choose(texts, 5, seed=1) == evaluate.choose(texts, 5, seed=1)
    assert evaluate.choose(texts, 5, seed=1) != evaluate.choose(texts, 5, seed=2)
    assert evaluate.choose(texts, 500, seed=1) == texts


def test_diversity_counts_distinct_and_repeated_ngrams():
    figures = evaluate.diversity(["a b c d e f", "a b c d"])
    assert figures["distinct_1"] == 6 / 10
    assert figures["distinct_2"] == 5 / 8
    assert figures["repeated_4grams"] == 0
    assert evaluate.diversity(["is is is is is is"])["repeated_4grams"] == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_command_ends_with_one_line_of_json(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02d}.txt").write_text(f"{TEXTS[i % 3]} {i}")
    config = LanguageModelTraining(
        PreNormConfig(vocabulary_size=280, positions=16, embed_dim=16, latent_dim=16, layers=1, num_heads=2),
        architecture="pre_norm",
        batch_size=4,
        steps=2,
    )
    run = train(config, folder, tmp_path / "cache", tmp_path / "run", Schedule(2))
    result = CliRunner().invoke(cli, ["eval", "lm", "--run", str(run.path), "--data", str(folder)])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert 1 < figures["bits_per_byte"] < 10
    assert figures["validation_loss"] == run.result["validation_loss"]
    assert set(figures["samples"]) == {"0.2", "0.5", "0.7", "1.0", "1.5"}
