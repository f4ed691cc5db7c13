"""Configurations are output: the committed ones are what the description writes, and Triton reads them."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from reverie_client.labels import Labels
from tritonclient.grpc import model_config_pb2

from registry import configuration, table
from registry.model_configuration import ModelConfiguration, Target, Tensor

PROJECT = Path(__file__).resolve().parents[2]
REPOSITORY = PROJECT / "model_repository"
FILES = sorted(REPOSITORY.glob("*/config.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_committed_configurations_are_what_is_written():
    assert table.write_configurations(REPOSITORY, check=True) == []
    described = {*configuration.EXPORTED, *configuration.FIXED}
    assert {p.name for p in REPOSITORY.iterdir() if p.is_dir()} == described


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_a_committed_configuration_parses_and_has_no_field_that_bites(path):
    found = parse(path.read_text())
    batching = found.dynamic_batching
    assert found.name == path.relative_to(REPOSITORY).parts[0]
    assert not batching.default_queue_policy.default_timeout_microseconds
    assert not batching.preferred_batch_size
    assert not found.optimization.cuda.graphs
    assert not found.response_cache.enable
    if found.max_batch_size:
        assert batching.default_queue_policy.max_queue_size > 0


@pytest.mark.parametrize(
    "describe",
    [
        configuration.style(("a", "b")),
        configuration.style(("a", "b"), 1889, "0" * 16),
        configuration.language_model(100),
    ],
)
def test_tensorrt_gets_a_profile_for_every_dynamic_input_and_a_cache_outside_the_repository(describe):
    found = parse(describe.text([3], target=Target.gpu))
    (accelerator,) = found.optimization.execution_accelerators.gpu_execution_accelerator
    settings = dict(accelerator.parameters)
    for which in ("min", "opt", "max"):
        profile = dict(part.split(":") for part in settings[f"trt_profile_{which}_shapes"].split(","))
        assert set(profile) == {tensor.name for tensor in found.input}
        for tensor in found.input:
            assert len(profile[tensor.name].split("x")) == 1 + len(tensor.dims)
    assert int(settings["trt_profile_max_shapes"].split(":")[1].split("x")[0]) == found.max_batch_size
    assert settings["trt_engine_cache_path"].startswith("/var/cache/")
    assert "trt_engine_cache_prefix" not in settings
    assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_the_portable_flavour_needs_no_gpu():
    for describe in (configuration.style(("a",)), configuration.language_model(10)):
        found = parse(describe.text([1]))
        assert not found.HasField("optimization")
        assert found.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO


def test_warm_up_has_the_type_and_rank_of_every_input():
    for describe in (configuration.style(("a", "b")), configuration.language_model(10)):
        found = parse(describe.text([1]))
        for sample in found.model_warmup:
            for tensor in found.input:
                assert sample.inputs[tensor.name].data_type == tensor.data_type
                assert len(sample.inputs[tensor.name].dims) == len(tensor.dims)


def test_labels_and_versions_come_back_from_what_is_written():
    labels = Labels({"stable": 3, "canary": 4, "museum": 1}, percent=12.5)
    text = configuration.style(("a",)).text([1, 3, 4], labels)
    assert Labels.of_configuration(parse(text)) == labels
    assert list(parse(text).version_policy.specific.versions) == [1, 3, 4]


def test_a_bounded_queue_without_a_batcher_is_refused():
    with pytest.raises(ValueError, match="bounded queue needs Triton's batcher"):
        ModelConfiguration("m", "python", "", (Tensor("a", "TYPE_FP32", (1,)),), (), max_queue=3)


@pytest.mark.parametrize("positions", [12, 100, 256])
def test_a_language_model_is_warmed_up_with_a_text_that_every_version_takes(positions):
    """While a version is tried out, it is loaded under the stable version's configuration."""
    (warmup,) = configuration.language_model(positions).warmup
    assert warmup.of == {"token_ids": (2,)}
