import shutil
import tarfile
from dataclasses import replace

import keras
import numpy as np
import pytest

from language.byte_pairs import BytePairs
from language.vocabulary import Vocabulary
from tests.conftest import running_eagerly
from training.language_model import presets, reviews
from training.language_model import train as train_module
from training.language_model.average import average
from training.language_model.model import LanguageModelConfig, crossentropy
from training.language_model.pre_norm import PreNormConfig, rotary_tables, rotate
from training.language_model.samples import continue_prompt
from training.language_model.train import (
    LanguageModelTraining,
    build,
    load,
    train,
    validation_figures,
)
from training.loop import Schedule, TrainingStopped
from training.runs import Run, RunError

TINY = LanguageModelConfig(vocabulary_size=40, positions=12, embed_dim=8, latent_dim=16, num_heads=2)
TINY_BYTES = PreNormConfig(vocabulary_size=300, positions=16, embed_dim=16, latent_dim=32, layers=2, num_heads=2)
TEXTS = [f"this movie was {w} and the plot was {v}" for w in ("good", "bad", "long") for v in ("thin", "fine")] * 20


def configuration(preset="book", **changes):
    settings = {"batch_size": 4, "learning_rate": 1e-2, "steps": 6, "sample_words": 2}
    if preset == "reviews":
        settings |= {"model": TINY_BYTES, "architecture": "pre_norm", "optimizer": "muon", "prompt": "This"}
    return LanguageModelTraining(**{"model": TINY} | settings | changes)


PRESETS = pytest.mark.parametrize("preset", ["book", "reviews"])


@pytest.fixture(scope="module", params=["book", "reviews"])
def model(request):
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    return build(configuration(request.param))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03d}.txt").write_text(text)
    return folder


@pytest.mark.slow
def test_changing_a_word_does_not_move_the_logits_before_it(model):
    ids = np.random.default_rng(0).integers(2, 40, (1, 12)).astype(np.int32)
    before = keras.ops.convert_to_numpy(model(ids))
    assert before.shape == (1, 12, model.config.vocabulary_size)
    for t in range(1, 12):
        changed = ids.copy()
        changed[0, t] = (ids[0, t] + 7) % 38 + 2
        after = keras.ops.convert_to_numpy(model(changed))
        np.testing.assert_allclose(after[:, :t], before[:, :t], atol=1e-6)
        assert np.abs(after[:, t:] - before[:, t:]).max() > 1e-4


def test_next_token_logits_are_those_of_the_whole_model_at_the_last_word(model):
    ids = np.random.default_rng(1).integers(2, 40, (4, 12)).astype(np.int32)
    lengths = np.array([1, 5, 11, 12], np.int32)
    everywhere = keras.ops.convert_to_numpy(model(ids))
    last = keras.ops.convert_to_numpy(model.next_token_logits(ids, lengths))
    np.testing.assert_allclose(last, everywhere[np.arange(4), lengths - 1], atol=1e-5)


@pytest.mark.slow
def test_the_book_model_has_the_book_s_number_of_parameters():
    assert build(LanguageModelTraining()).count_params() == 9_825_176


@pytest.mark.slow
def test_the_preset_reviews_has_5_2_million_parameters():
    assert build(presets.reviews()).count_params() == 5_247_488


def test_rotation_depends_on_the_distance_of_two_positions_alone():
    cosine, sine = rotary_tables(20, 8)
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(i, j):
        turned = [rotate(x, cosine[p : p + 1], sine[p : p + 1]) for x, p in ((query, i), (key, j))]
        return float(keras.ops.sum(turned[0] * turned[1]))

    assert score(3, 1) == pytest.approx(score(12, 10), rel=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-2)


def test_rotation_turns_the_halves_against_each_other_as_in_gpt_neox():
    cosine, sine = rotary_tables(2, 4)
    turned = keras.ops.convert_to_numpy(rotate(np.array([[[[1.0, 2.0, 0.0, 0.0]]]], np.float32), cosine[1:], sine[1:]))
    slow = 10_000**-0.5
    expected = [np.cos(1), 2 * np.cos(slow), np.sin(1), 2 * np.sin(slow)]
    np.testing.assert_allclose(turned[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_dropout_acts_in_training_only():
    for config in (
        configuration(model=replace(TINY, dropout=0.5)),
        configuration("reviews", model=replace(TINY_BYTES, dropout=0.5)),
    ):
        noisy, ids = build(config), np.full((1, 5), 3, np.int32)
        still = keras.ops.convert_to_numpy(noisy(ids))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(noisy(ids)), still)
        assert np.abs(keras.ops.convert_to_numpy(noisy(ids, training=True)) - still).max() > 1e-3


def test_padding_does_not_count_in_the_loss():
    logits = np.random.default_rng(0).normal(size=(1, 3, 5)).astype(np.float32)
    alone = crossentropy(np.array([[1, 2]]), logits[:, :2])
    padded = crossentropy(np.array([[1, 2, -1]]), logits)
    assert float(alone) == pytest.approx(float(padded))


def test_long_reviews_are_cut_into_chunks_and_every_word_is_predicted_once():
    rows = list(reviews.rows_of(list(range(2, 27)), length=10))
    predicted = [i for row in rows for i, previous in zip(row[1:], row, strict=False) if previous != 0]
    assert predicted == [*range(3, 27), 0]


def test_a_stream_begins_every_review_with_the_end_and_predicts_every_token_once():
    tokenizer = BytePairs.from_texts(TEXTS, 300)
    stream = reviews.encode_stream(TEXTS[:3], tokenizer, batch=2)
    assert list(stream) == [0, *(t for text in TEXTS[:3] for t in [*tokenizer.encode(text), 0])]
    rows = reviews.rows_of_stream(stream, 5)
    assert rows.shape == ((len(stream) - 1) // 5, 6)
    inputs, targets = reviews.inputs_and_targets(rows, padded=False)
    np.testing.assert_array_equal(targets.ravel(), stream[1 : targets.size + 1])
    np.testing.assert_array_equal(inputs.ravel(), stream[: inputs.size])


def test_a_stream_shorter_than_a_row_asks_for_more_text():
    with pytest.raises(reviews.DataError, match="hold 3 tokens; a row needs 5: give more text"):
        reviews.rows_of_stream(np.zeros(3, np.uint16), 4)


@pytest.mark.parametrize("tokenization", ["words", "byte_pairs"])
def test_data_are_tokenized_once_and_say_what_they_hold(source, tmp_path, tokenization, monkeypatch):
    first = reviews.Reviews.prepare(source, tokenization, 300, 10, tmp_path / "cache")
    monkeypatch.setattr(reviews, "_tokenize", None)
    again = reviews.Reviews.prepare(source, tokenization, 300, 10, tmp_path / "cache")
    np.testing.assert_array_equal(first.train, again.train)
    assert first.info == again.info
    held_out = [t for i, t in enumerate(reviews.read_reviews(source, "train")) if i % reviews.VALIDATION_EVERY == 0]
    assert first.info["validation"]["reviews"] == len(held_out)
    assert first.info["validation"]["bytes"] == sum(len(t.encode()) for t in held_out)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [
        p.name for p in (tmp_path / "cache").glob("*") if (p / "info.json").exists()
    ]


def test_batches_depend_on_the_step_alone_and_visit_every_row():
    rows = np.arange(2, 2 + 20 * 4, dtype=np.uint16).reshape(20, 4)
    seen = [reviews.batch_of(rows, step, 5, seed=3)[0][:, 0] for step in range(4)]
    assert sorted(np.concatenate(seen)) == sorted(rows[:, 0])
    np.testing.assert_array_equal(reviews.batch_of(rows, 2, 5, seed=3)[0][:, 0], seen[2])


def test_an_archive_s_test_reviews_and_other_files_are_not_trained_on(tmp_path):
    root = tmp_path / "aclImdb"
    for name in ("train/pos/1.txt", "train/unsup/2.txt", "test/neg/3.txt", "train/urls_pos.txt", "imdbEr.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}<br />end")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(root, "aclImdb")
    for source in (root, tmp_path / "a.tar.gz"):
        assert sorted(reviews.read_reviews(source, "train")) == [
            "text of train/pos/1.txt end",
            "text of train/unsup/2.txt end",
        ]
        assert list(reviews.read_reviews(source, "test")) == ["text of test/neg/3.txt end"]


@pytest.mark.parametrize("make", [lambda p: p / "absent", lambda p: p])
def test_missing_or_empty_data_says_what_to_give(tmp_path, make):
    with pytest.raises(reviews.DataError, match="aclImdb"):
        list(reviews.read_reviews(make(tmp_path), "train"))


def test_preparing_absent_data_says_what_to_give(tmp_path):
    with pytest.raises(reviews.DataError, match=r"no reviews at .*absent; give the aclImdb archive"):
        reviews.Reviews.prepare(tmp_path / "absent", "words", 100, 10, tmp_path / "cache")


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "x.tar").write_text("nonsense")
    with pytest.raises(reviews.DataError, match=r"x\.tar is not a readable tar archive"):
        list(reviews.read_reviews(tmp_path / "x.tar", "train"))


SIX_STEPS = Schedule(6, log_every=2, sample_every=100, checkpoint_every=3, validate_every=2)


def run_to(source, path, cache, preset="book", schedule=SIX_STEPS, **changes):
    return train(configuration(preset, **changes), source, cache, path, schedule)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """By preset a short run that nothing stopped, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with running_eagerly():
        return {preset: run_to(source, folder / preset, folder / "cache", preset) for preset in ("book", "reviews")}


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@PRESETS
def test_a_killed_run_resumes_and_ends_with_the_files_of_an_unbroken_one(
    source, finished, tmp_path, monkeypatch, preset
):
    unbroken = finished[preset]
    original, calls = reviews.batch_of, []

    def killed_at_fifth(rows, step, *rest):
        calls.append(step)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(rows, step, *rest)

    monkeypatch.setattr(reviews, "batch_of", killed_at_fifth)
    with pytest.raises(TrainingStopped):
        run_to(source, tmp_path / "broken", tmp_path / "cache", preset)
    monkeypatch.setattr(reviews, "batch_of", original)
    resumed = run_to(source, tmp_path / "broken", tmp_path / "cache", preset)
    for a, b in zip(load(unbroken)[0].get_weights(), load(resumed)[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert unbroken.result == resumed.result
    assert (unbroken.path / "validation.csv").read_text() == (resumed.path / "validation.csv").read_text()
    steps = [line.split(",")[0] for line in (resumed.path / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "4", "6"]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@PRESETS
def test_the_weights_of_a_run_are_those_of_its_lowest_validation_loss(source, tmp_path, monkeypatch, preset):
    losses = iter([3.0, 1.0, 2.0, 0.0])
    monkeypatch.setattr(train_module, "validation_figures", lambda *args: {"loss": next(losses)})
    schedule = Schedule(3, validate_every=1)
    run = run_to(source, tmp_path / "run", tmp_path / "cache", preset, schedule)
    step, loss, best = run.checkpoints.load_best()
    assert (step, loss) == (2, 1.0)
    assert run.result["best_step"] == 2
    for a, b in zip(load(run)[0].get_weights(), best, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_that_still_trains_can_be_loaded_at_its_best_so_far(finished, tmp_path):
    run = Run(shutil.copytree(finished["reviews"].path, tmp_path / "run"))
    run.weights.unlink()
    for a, b in zip(load(run)[0].get_weights(), run.checkpoints.load_best()[2], strict=True):
        np.testing.assert_array_equal(a, b)
    (run.path / "best.npz").unlink()
    with pytest.raises(RunError, match="let it train to its first validation"):
        load(run)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@PRESETS
def test_a_run_goes_on_from_another_s_weights_and_tokenizer_on_another_text(finished, tmp_path, preset):
    first = finished[preset]
    other = tmp_path / "other"
    other.mkdir()
    for i in range(200):
        (other / f"{i:03d}.txt").write_text("the film had a good plot and the film was long")
    config, schedule = configuration(preset, learning_rate=1e-9, steps=1), Schedule(1, 1, 1, 1, 1)
    run = train(config, other, tmp_path / "cache", tmp_path / "second", schedule, initial=first)
    (before, tokenizer), (after, same) = load(first), load(run)
    assert [same.token_bytes(i) for i in range(len(same))] == [tokenizer.token_bytes(i) for i in range(len(tokenizer))]
    for a, b in zip(before.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert len(run.config["initial_weights_sha256"]) == 64
    other_preset = {"book": "reviews", "reviews": "book"}[preset]
    with pytest.raises(RunError, match="has the architecture"):
        train(configuration(other_preset), other, tmp_path / "cache", None, schedule, initial=first)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_mean_of_two_runs_is_a_run_and_runs_that_differ_are_refused(source, finished, tmp_path):
    preset = "reviews"
    first = finished[preset]
    second = run_to(source, tmp_path / "second", tmp_path / "cache", preset, Schedule(1), seed=2)
    mean = average([first, second], source, tmp_path / "cache", tmp_path / "mean")
    weights = [load(run)[0].get_weights() for run in (first, second, mean)]
    for a, b, between in zip(*weights, strict=True):
        np.testing.assert_allclose(between, (a + b) / 2, atol=1e-6)
    assert mean.result["validation_loss"] > 0
    assert (mean.path / train_module.HELD_OUT_FILE).exists()
    wider = run_to(
        source,
        tmp_path / "wider",
        tmp_path / "cache",
        preset,
        Schedule(1),
        model=replace(LanguageModelTraining.from_dict(first.config).model, latent_dim=48),
    )
    with pytest.raises(RunError, match="has other sizes"):
        average([first, wider], source, tmp_path / "cache", None)
    with pytest.raises(RunError, match="at least 2"):
        average([first], source, tmp_path / "cache", None)


@pytest.mark.slow
@PRESETS
def test_a_run_learns_and_leaves_what_it_did_behind(source, tmp_path, preset):
    config = configuration(preset, steps=60)
    run = train(config, source, tmp_path / "cache", tmp_path / "run", Schedule(60, 10, 30, 30, 30))
    trained, tokenizer = load(run)
    # 40 words, which an untrained model is sure to confuse; byte pairs are whole words here.
    assert run.result["validation_perplexity"] < 8
    assert run.result["validation_bits_per_byte"] < 1
    assert len((run.path / "metrics.csv").read_text().splitlines()) == 8
    assert len((run.path / "validation.csv").read_text().splitlines()) == 3
    assert list((run.path / "events").iterdir())
    assert "== temperature 1.5" in (run.samples / "step_000060.txt").read_text()
    assert continue_prompt(trained, tokenizer, "this movie", 1, [0, 0], [0, 1]) == ["this movie was"] * 2
    resumable = LanguageModelTraining.from_dict(run.config)
    assert resumable.model.vocabulary_size == len(tokenizer) <= config.model.vocabulary_size
    assert resumable.learning_rate == config.learning_rate


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_book_s_callback_prints_after_each_epoch(source, tmp_path):
    data = reviews.Reviews.prepare(source, "words", TINY.vocabulary_size, TINY.positions, tmp_path / "cache")
    epoch = reviews.steps_per_epoch(data.train, 32)
    last = 2 * epoch + 1
    config, schedule = configuration(batch_size=32, steps=last), Schedule(last, sample_every=None)
    run = train(config, source, tmp_path / "cache", tmp_path / "run", schedule)
    assert epoch > 1
    assert [p.name for p in sorted(run.samples.iterdir())] == [f"step_{s:06d}.txt" for s in (epoch, 2 * epoch, last)]


@pytest.mark.slow
def test_a_text_is_the_same_whatever_other_temperatures_are_asked_for(finished):
    model, tokenizer = load(finished["reviews"])
    alone = continue_prompt(model, tokenizer, "This", 8, [1.0], [3])
    assert continue_prompt(model, tokenizer, "This", 8, [0.0, 1.0, 1.5], [1, 3, 3])[1] == alone[0]


@pytest.mark.slow
def test_a_step_compiled_by_xla_learns_the_same(source, tmp_path):
    def trained(name, **options):
        config = configuration("reviews", model=replace(TINY_BYTES, layers=1))
        return train(config, source, tmp_path / "cache", tmp_path / name, Schedule(4, 4, 4, 4, 4), **options)

    with running_eagerly():
        plain = trained("plain")
    compiled = trained("compiled", jit_compile=True)
    assert compiled.result["validation_loss"] == pytest.approx(plain.result["validation_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_folder_with_other_settings_is_not_resumed(source, finished, tmp_path):
    run = shutil.copytree(finished["book"].path, tmp_path / "run")
    with pytest.raises(RunError, match="other settings"):
        run_to(source, run, tmp_path / "cache", seed=2)


def test_presets_are_the_listing_s_model_and_ours():
    book, ours = presets.book(), presets.reviews()
    assert (book.model, book.optimizer, book.learning_rate, book.batch_size) == (
        LanguageModelConfig(),
        "rmsprop",
        1e-3,
        256,
    )
    assert ours.model == PreNormConfig()
    assert presets.adjusted(ours, dropout=0.1, steps=7, seed=None).model.dropout == 0.1
    assert presets.adjusted(ours, steps=7, seed=None) == replace(ours, steps=7)


def test_an_architecture_that_does_not_fit_its_sizes_is_refused():
    with pytest.raises(ValueError, match="architecture is 'book'"):
        LanguageModelTraining(PreNormConfig())


def test_perplexity_of_uniform_predictions_is_the_vocabulary_size_and_bytes_are_those_of_the_tokens():
    flat = build(configuration())
    flat.head.set_weights([np.zeros_like(w) for w in flat.head.get_weights()])
    tokenizer = Vocabulary(["", "[UNK]", *(f"w{i:02d}" for i in range(38))])
    figures = validation_figures(flat, tokenizer, np.full((3, 13), 5, np.uint16), padded=True)
    assert figures["perplexity"] == pytest.approx(40, rel=1e-4)
    assert figures["bits_per_byte"] == pytest.approx(np.log2(40) / 4, rel=1e-4)  # " w03" has four bytes


@pytest.mark.slow
def test_the_real_archive_has_75000_reviews_to_train_on(data):
    texts = reviews.read_reviews(data / "aclImdb.tar.xz", "train")
    assert sum("<br />" not in t for t in texts) == 75_000
