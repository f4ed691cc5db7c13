from dataclasses import asdict, replace

import keras
import numpy as np
import onnx
import pytest

from export.language_model.restore import RestoreError
from export.onnx import parity
from export.style.export import export_style, graph_of
from export.style.graph import StyleGraph, phase_kernels, whole_kernels
from export.style.restore import restore
from export.style.vectors import style_vectors, trunk_hash
from registry.repository import Repository
from registry.staging import stage
from synthesis.style.network import PRESETS, StyleNetworkConfig, build, restyle
from tests.serving.shipped import STYLES, TABLE, newest
from training.runs import Run
from training.style.add import with_style
from training.style.train import StyleTraining, load


@pytest.fixture(scope="module", params=PRESETS)
def network(request):
    """A network that changes pictures much, and differently in each style."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    made = build(StyleNetworkConfig(("a", "b", "c"), request.param, width=12, blocks=1))
    rng = np.random.default_rng(1)
    for weight in made.weights:
        if len(weight.shape) == 2:
            weight.assign(rng.normal(1, 0.5, weight.shape))
    made.to_rgb.conv.kernel.assign(rng.normal(0, 0.1, made.to_rgb.conv.kernel.shape))
    made.to_rgb.conv.bias.assign([0.1, -0.2, 0.3])
    return made


def picture(height, width, batch=1):
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), np.uint8)


def styled(network, image, weights, merges=True):
    return parity.run_graph(graph_of(network, merges), {"image": image, "style": weights @ style_vectors(network)})


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (48, 40), (61, 16)])
def test_the_graph_equals_keras_at_any_size(network, merges, height, width):
    image, weights = picture(height, width), np.array([[0.2, 0.5, 0.3]], np.float32)
    expected = restyle(network, image, weights)
    assert np.abs(expected.astype(int) - image).mean() > 20
    difference = np.abs(styled(network, image, weights, merges).astype(int) - expected)
    assert difference.max() <= 3
    assert difference.mean() < 0.3


def test_each_picture_of_a_batch_has_its_own_style_and_is_as_if_alone(network):
    image, weights = picture(24, 33, batch=3), np.eye(3, dtype=np.float32)
    together = styled(network, image, weights)
    for i in range(3):
        alone = styled(network, image[[i]], weights[[i]])
        assert np.abs(together[[i]].astype(int) - alone).max() <= 1
    assert np.abs(styled(network, image[[0] * 3], weights).astype(int)[0] - together[1]).mean() > 5


def test_normalizations_are_single_nodes_and_nothing_is_tiled_or_enlarged_at_full_width(network):
    graph = graph_of(network).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("InstanceNormalization") == len(network.down) + 2 * len(network.residuals) + len(network.up)
    assert not {"Tile", "ReduceMean", "Resize"} & set(kinds)
    assert kinds.count("Transpose") == 2


def test_kernels_split_into_phases_are_put_together_again():
    kernel = np.random.default_rng(0).normal(size=(5, 4, 3, 3))
    np.testing.assert_allclose(whole_kernels(phase_kernels(kernel)), kernel, atol=1e-12)


@pytest.mark.slow
def test_a_published_network_is_restored_to_a_run(network, tmp_path):
    run = Run.create("style", asdict(StyleTraining(network.config)), tmp_path / "run")
    network.save_weights(run.weights)
    run.finish({"held_out_loss": 1.0, "steps": 7})
    with stage(run, export_style, Repository(tmp_path / "repository"), "style") as made:
        restored = restore(made.files, tmp_path / "restored")
        (made.files / "model_float16.onnx").unlink()
        with pytest.raises(RestoreError, match="holds no style network"):
            restore(made.files)
    again = load(restored)
    assert trunk_hash(again) == trunk_hash(network)
    assert (again.config, restored.result["steps"]) == (network.config, 7)
    for a, b in zip(again.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_the_shipped_network_is_restored_whatever_its_graph_takes(tmp_path):
    restored = load(restore(newest("style"), tmp_path / "restored"))
    photo = picture(32, 40)
    published = parity.run_graph(
        onnx.load(newest("style") / "model_float16.onnx"), {"image": photo, **TABLE.inputs()[1]}
    )
    expected = restyle(restored, photo, np.eye(len(STYLES), dtype=np.float32)[[1]])
    assert np.abs(published.astype(int) - expected).mean() < 0.5


def test_the_hash_of_what_styles_share_stays_where_a_style_is_added_and_changes_with_a_kernel(network):
    before = trunk_hash(network)
    larger = with_style(network, replace(network.config, styles=(*network.config.styles, "d")))
    assert trunk_hash(larger) == before
    assert style_vectors(larger).shape == (4, style_vectors(network).shape[1])
    kernel = larger.to_rgb.conv.kernel
    kernel.assign(kernel + 0.1)
    assert trunk_hash(larger) != before


@pytest.mark.slow
def test_a_graph_that_departs_names_the_first_layer_that_does(network, tmp_path, monkeypatch):
    run = Run.create("style", asdict(StyleTraining(network.config)), tmp_path / "run")
    network.save_weights(run.weights)
    run.finish({"held_out_loss": 1.0})
    residual = StyleGraph._residual
    monkeypatch.setattr(StyleGraph, "_residual", lambda self, x, block: self._op("Neg", residual(self, x, block)))
    with pytest.raises(
        parity.ParityError, match=r"nothing was published; the first layer to depart is residual 0 \(tensor Neg_"
    ):
        export_style(run, tmp_path)
    assert not (tmp_path / "model.onnx").exists()
