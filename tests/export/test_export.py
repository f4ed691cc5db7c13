from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.language_model import export as language_model
from export.language_model import restore, variants
from export.language_model.export import export_language_model
from export.onnx import conversion, parity
from export.onnx.builder import Graph
from export.publishing import export_runs
from export.style import export as style
from export.style.export import export_style
from language.sampling import FINE_GROUP
from language.vocabulary import Vocabulary
from registry import manifest, publishing
from registry.repository import Repository
from registry.staging import stage
from serving.style.table import StyleTable
from serving.text.decoder import Decoder
from synthesis.style.network import StyleNetworkConfig
from synthesis.style.network import build as build_style
from training.language_model.model import LanguageModel, LanguageModelConfig
from training.language_model.model import build as build_language_model
from training.language_model.pre_norm import PreNormConfig, PreNormLanguageModel
from training.language_model.train import HELD_OUT_FILE, LanguageModelTraining, load, train
from training.loop import Schedule
from training.runs import Run, RunError
from training.style.train import StyleTraining


@pytest.fixture(scope="module", autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One small finished run of each kind, with random weights."""
    root = tmp_path_factory.mktemp("runs")
    words = ["", "[UNK]", *(f"w{i}" for i in range(38))]
    config = LanguageModelTraining(LanguageModelConfig(40, 12, 32, 64, 2))
    run = Run.create("language_model", asdict(config), root / "language_model" / "a")
    build_language_model(config.model).save_weights(run.weights)
    Vocabulary(words).save(run.path / "vocabulary.txt")
    np.save(run.path / HELD_OUT_FILE, np.random.default_rng(0).integers(2, 40, (12, 13)).astype(np.uint16))
    run.finish({"loss": 1.0})

    config = StyleTraining(StyleNetworkConfig(("a", "b"), width=8, blocks=1))
    run = Run.create("style", asdict(config), root / "style" / "a")
    build_style(config.network).save_weights(run.weights)
    run.finish({"loss": 1.0})
    return root


@pytest.fixture
def repository(tmp_path) -> Repository:
    (tmp_path / "model_repository").mkdir()
    return Repository(tmp_path / "model_repository")


def publish(run: Run, export, repository: Repository):
    """Export and publish without a server: what was exported, and its version."""
    with stage(run, export, repository, run.path.parent.name) as made:
        return made.exported, publishing.publish(made, repository).version


GRAPHS = {f"{kind}_{variant}.onnx" for kind in ("decode", "prefill") for variant in variants.PRECISIONS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "export", "extra"),
    [
        (language_model, export_language_model, {"vocabulary.txt", "weights.bin", *GRAPHS}),
        (style, export_style, {"styles.json", "styles.npz", "kernels.npz", "model_float16.onnx"}),
    ],
)
def test_a_finished_run_is_published_with_what_its_callers_need(runs, repository, module, export, extra):
    run = Run.newest_finished(module.NAME, runs)
    exported, version = publish(run, export, repository)
    folder = repository.path / module.NAME / str(version)
    assert version == 1
    assert exported.parity.largest <= module.TOLERANCE.largest
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "manifest.json", "recorded.npz", *extra}
    described = manifest.verify(folder)
    assert described.parity["unit"] == module.TOLERANCE.unit
    assert described.opset == conversion.OPSET
    assert described.tools["onnxruntime"] == ort.__version__
    assert (described.data_sha256 is None) == (module is style)
    assert f'name: "{module.NAME}"' in (repository.path / module.NAME / "config.pbtxt").read_text()


@pytest.mark.slow
def test_the_graph_is_named_after_its_weights(runs, repository):
    names = []
    for seed in (1, 2):
        run = Run.newest_finished("style", runs)
        keras.utils.set_random_seed(seed)
        build_style(StyleTraining.from_dict(run.config).network).save_weights(run.weights)
        _, version = publish(run, export_style, repository)
        names.append(onnx.load(repository.path / "style" / str(version) / "model.onnx").graph.name)
    assert names[0].startswith("style_")
    assert names[0] != names[1]


@pytest.mark.slow
def test_a_graph_that_departs_from_keras_is_not_published(runs, repository, monkeypatch):
    monkeypatch.setattr(parity, "run_graph", lambda model, inputs: np.full((8, 11), -7.0))
    # Which layer departs is looked for below, in a smaller model.
    monkeypatch.setattr(language_model, "_converted_stages", lambda *_: iter(()))
    with pytest.raises(parity.ParityError, match=r"departs from Keras by .* nats at most .* nothing was published"):
        publish(Run.newest_finished("language_model", runs), export_language_model, repository)
    assert repository.versions("language_model") == []
    assert not any("staging" in p.name for p in repository.path.parent.iterdir())


@pytest.mark.slow
def test_a_precision_that_costs_perplexity_is_not_published(runs, repository, monkeypatch):
    monkeypatch.setattr(variants, "perplexity", lambda path, *_: 10.2 if "int8" in path.name else 10.0)
    with pytest.raises(parity.PrecisionError, match=r"int8 has perplexity 10\.20, float32 10\.00"):
        publish(Run.newest_finished("language_model", runs), export_language_model, repository)
    assert repository.versions("language_model") == []


TRAININGS = {
    "book": LanguageModelTraining(LanguageModelConfig(60, 12, 16, 32, 2), steps=2, batch_size=4),
    "reviews": LanguageModelTraining(
        PreNormConfig(300, 32, 32, 64, 2, 2), architecture="pre_norm", optimizer="muon", steps=2, batch_size=4
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("preset", TRAININGS)
def test_what_training_leaves_behind_is_all_that_export_needs(preset, repository, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(120):
        (texts / f"{i:03d}.txt").write_text(f"This movie, number {i}, was {'good' if i % 3 else 'bad'}: what a plot!")
    run = train(TRAININGS[preset], texts, tmp_path / "cache", tmp_path / "run", Schedule(2))
    exported, version = publish(run, export_language_model, repository)
    assert version == 1
    assert set(exported.measured["perplexity"]) == set(variants.PRECISIONS)
    folder = repository.path / language_model.NAME / "1"
    if preset == "book":
        with pytest.raises(restore.RestoreError, match="is not of the preset reviews"):
            restore.restore(folder, tmp_path / "restored")
    else:
        restored = restore.restore(folder, tmp_path / "restored")
        assert restored.config["model"] == run.config["model"]
        assert (restored.path / "tokenizer.json").read_text() == (run.path / "tokenizer.json").read_text()
        for a, b in zip(load(restored)[0].get_weights(), load(run)[0].get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_a_version_that_is_not_there_is_not_restored(tmp_path):
    with pytest.raises(restore.RestoreError, match="holds no language model"):
        restore.restore(tmp_path / "7")


MODELS = {
    "book": lambda: LanguageModel(LanguageModelConfig(301, 20, 32, 64, 2)),
    "reviews": lambda: PreNormLanguageModel(PreNormConfig(301, 20, 64, 96, 2, 2)),
}


@pytest.fixture(scope="module", params=list(MODELS))
def decodable(request, tmp_path_factory):
    """A small random model with its decode graphs, and token ids."""
    model = MODELS[request.param]()
    model(np.zeros((1, 2), np.int32))
    language_model.round_to_float16(model)
    tokens = np.random.default_rng(0).integers(0, 301, (4, 20)).astype(np.int32)
    folder = tmp_path_factory.mktemp(request.param)
    variants.save(variants.graphs(model, variants.calibrate(model, tokens)), folder)
    return model, folder, tokens


@pytest.mark.slow
def test_a_decode_graph_equals_keras_at_every_position_of_rows_of_different_lengths(decodable):
    model, folder, tokens = decodable
    expected = keras.ops.convert_to_numpy(model(tokens))
    decoder = Decoder(folder, "float32", slots=4)
    position = np.array([0, 1, 7, 11])
    for row, length in enumerate(position):
        decoder.prefill(row, tokens[row, :length].tolist())
    for _ in range(9):
        logits, maxima = decoder.step(tokens[np.arange(4), position], position)
        np.testing.assert_allclose(logits[:, :301], expected[np.arange(4), position], atol=1e-4)
        np.testing.assert_array_equal(maxima, logits.reshape(4, -1, FINE_GROUP).max(axis=2))
        position += 1


def test_a_decode_graph_that_departs_names_the_first_layer_that_does(decodable, monkeypatch):
    model, _, tokens = decodable
    is_book = isinstance(model, LanguageModel)
    altered, departs = ("norm_1", "norm_1") if is_book else ("block_1/feed_forward_norm", "block_1/out")
    monkeypatch.setattr(Graph, "layer_norm", _doubling(altered))
    graph = variants.graphs(model, variants.calibrate(model, tokens))["decode_float32"]
    with pytest.raises(parity.ParityError, match=f"nothing was published; the first layer to depart is {departs}, by"):
        language_model.check_decoding(model, graph, tokens)


def _doubling(altered):
    layer_norm = Graph.layer_norm

    def doubled(self, x, name, gamma, beta, epsilon):
        return layer_norm(self, x, name, gamma * (2 if name == altered else 1), beta, epsilon)

    return doubled


SHALLOW = {
    "book": MODELS["book"],
    "reviews": lambda: PreNormLanguageModel(PreNormConfig(301, 20, 64, 96, 1, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHALLOW)
def test_a_scoring_graph_that_departs_names_the_first_layer_that_does(preset, monkeypatch):
    model, tokens = SHALLOW[preset](), np.random.default_rng(0).integers(0, 301, (4, 20)).astype(np.int32)
    model(tokens)
    language_model.round_to_float16(model)
    graph = language_model.scoring_graph(model)
    run_graph = parity.run_graph
    monkeypatch.setattr(parity, "run_graph", lambda *arguments: -run_graph(*arguments))
    with pytest.raises(parity.ParityError, match="every layer but the last agrees"):
        language_model.check_scoring(model, graph, tokens)
    convert = conversion.convert
    monkeypatch.setattr(
        conversion, "convert", lambda function, *more, **named: convert(lambda ids: 2 * function(ids), *more, **named)
    )
    with pytest.raises(parity.ParityError, match="the first layer to depart is embedded, by 1 of its largest value"):
        language_model.check_scoring(model, graph, tokens)


def test_a_row_of_int8_is_the_same_alone_and_in_any_batch(decodable):
    _, folder, tokens = decodable

    def rows(slots: int, threads: int) -> np.ndarray:
        decoder = Decoder(folder, "int8", slots, threads)
        return np.array([decoder.step(tokens[:slots, t], np.full(slots, t))[0].copy() for t in range(20)])

    full = rows(4, 1)
    for slots, threads in ((1, 1), (2, 1), (3, 2), (4, 2)):
        np.testing.assert_array_equal(rows(slots, threads), full[:, :slots])


def test_an_output_that_is_no_number_fails_parity():
    with pytest.raises(parity.ParityError):
        parity.check(np.array([np.nan]), np.array([0.0]), parity.Tolerance(1, 1, "units"), "m")


def test_an_unfinished_run_is_not_exported(runs, repository, tmp_path):
    run = Run.create("style", {}, tmp_path / "unfinished")
    with pytest.raises(RunError, match="not finished"):
        publish(run, export_style, repository)


def test_without_runs_the_message_says_how_to_train(tmp_path):
    with pytest.raises(RunError, match="make train-lm"):
        list(export_runs(None, None, tmp_path, tmp_path))


@pytest.mark.slow
def test_the_style_graph_takes_any_size_and_gives_it_back(runs, tmp_path):
    export_style(Run.newest_finished("style", runs), tmp_path)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    for height, width in ((16, 16), (17, 31), (64, 50)):
        picture = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        (out,) = session.run(None, {"image": picture, "style": StyleTable.read(tmp_path).rows})
        assert out.shape == picture.shape
        assert out.dtype == np.uint8


def test_large_weights_are_stored_in_half_and_small_ones_whole():
    rng = np.random.default_rng(0)
    large, small = (rng.normal(size=n).astype(np.float16).astype(np.float32) for n in ((64, 64), 64))
    node = onnx.helper.make_node("Gemm", ["x", "large", "small"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 64]) for n in "xy"]
    tensors = [onnx.numpy_helper.from_array(large, "large"), onnx.numpy_helper.from_array(small, "small")]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    x = rng.normal(size=(1, 64)).astype(np.float32)
    halved = conversion.store_weights_as_float16(model)
    assert {t.data_type for t in halved.graph.initializer} == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    np.testing.assert_allclose(parity.run_graph(halved, {"x": x}), x @ large + small, rtol=1e-4)


def test_what_float16_would_round_is_left_as_it_is():
    exact, rounded = np.ones((64, 64), np.float32), np.full((64, 64), 1 / 3, np.float32)
    tensors = [onnx.numpy_helper.from_array(exact, "exact"), onnx.numpy_helper.from_array(rounded, "rounded")]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))
    halved = conversion.store_weights_as_float16(model)
    assert [t.data_type for t in halved.graph.initializer] == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]


def test_a_weight_beyond_float16_is_refused():
    tensor = onnx.numpy_helper.from_array(np.full((64, 64), 1e6, np.float32), "huge")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(OverflowError, match="huge"):
        conversion.store_weights_as_float16(model)
