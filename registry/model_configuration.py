"""The typed description of a model, and the `config.pbtxt` that is written from it; the files are never edited by hand.

Two targets of one description: the portable `config.pbtxt` (the embedded server, and any Triton), and
`configs/gpu.pbtxt` (Triton's `--model-config-name=gpu`) with TensorRT under ONNX Runtime. Knows none of the models:
`registry.configuration` describes them.

What is left out on purpose: `default_timeout_microseconds`, which can starve Triton's batcher
(triton-inference-server/server#8870; a bounded queue and the caller's deadline shed load instead);
preferred batch sizes; CUDA graphs, which need fixed shapes; the response cache, since every picture is
another and a cache slows what misses it; a prefix of the engine cache, which would replace the graph's name
and with it the hash of its weights (microsoft/onnxruntime#6455).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from reverie_client.labels import Labels

ENGINE_CACHE = "/var/cache/reverie/tensorrt"
"""Outside the repository: whatever is newer inside makes Triton reload the model."""
_WIDTH = 116


class Target(str, Enum):
    """What a configuration is for; the values are paths in a model's folder."""

    portable = "config.pbtxt"
    gpu = "configs/gpu.pbtxt"


class InstanceKind(str, Enum):
    """Where instances run. `auto`: on a GPU where Triton sees one, else on the CPU."""

    auto = "KIND_AUTO"
    cpu = "KIND_CPU"
    gpu = "KIND_GPU"


@dataclass(frozen=True)
class Tensor:
    """An input or output; `dims` without the batch, -1 for any."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Parameter:
    """A setting that the model reads; `about` is written above it."""

    name: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class ShapeProfile:
    """ShapeProfile of every input, without the batch, and the batch they come in."""

    batch: int
    of: Mapping[str, tuple[int, ...]]

    def text(self) -> str:
        """As ONNX Runtime's TensorRT provider reads them: `image:1x64x64x3,weights:1x2`."""
        return ",".join(f"{name}:{'x'.join(map(str, (self.batch, *dims)))}" for name, dims in self.of.items())


@dataclass(frozen=True)
class TensorRT:
    """The engine that TensorRT builds: for any shape from `least` to `most`, fastest at `usual`.

    A shape outside stops the model for as long as a new engine takes, half a minute or more.

    Attributes:
        precision: FP32, FP16 or BF16.
    """

    least: ShapeProfile
    usual: ShapeProfile
    most: ShapeProfile
    precision: str = "FP32"
    workspace_bytes: int = 4 << 30

    def parameters(self) -> dict[str, str]:
        """Keys that Triton's ONNX Runtime backend accepts; an unknown one fails the load."""
        return {
            "precision_mode": self.precision,
            "max_workspace_size_bytes": str(self.workspace_bytes),
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": ENGINE_CACHE,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": ENGINE_CACHE,
            "trt_layer_norm_fp32_fallback": "true",
            "trt_profile_min_shapes": self.least.text(),
            "trt_profile_opt_shapes": self.usual.text(),
            "trt_profile_max_shapes": self.most.text(),
        }


@dataclass(frozen=True)
class ModelConfiguration:
    """All that a model's configuration says, but for the versions it serves.

    Attributes:
        about: what the model is, for the reader of the file.
        max_queue: requests that may wait; 0 where there is no batcher, and so no queue to bound.
        instances_about: why so many, there.
        warmup: shapes run before a version is ready; zeros, which every model takes.
        gpu_file: the graph that a GPU serves; empty for `model.onnx`, as on a CPU.
        versions_about: why several are served; empty where the one version is all there is.
        facts: what the description was made of, by argument; a version's manifest keeps them.
    """

    name: str
    backend: str
    about: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    max_queue: int = 0
    decoupled: bool = False
    instances: int = 1
    kind: InstanceKind = InstanceKind.cpu
    instances_about: str = ""
    parameters: tuple[Parameter, ...] = ()
    warmup: tuple[ShapeProfile, ...] = ()
    tensorrt: TensorRT | None = None
    gpu_file: str = ""
    versions_about: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_queue and not self.max_batch_size:
            raise ValueError(
                f"{self.name}: a bounded queue needs Triton's batcher; give a max_batch_size of at least 1"
            )

    @property
    def signature(self) -> tuple[Any, ...]:
        """What two versions must share to be served side by side."""
        return self.max_batch_size, self.inputs, self.outputs

    @property
    def targets(self) -> tuple[Target, ...]:
        """The files there are; without one of its own, Triton takes `config.pbtxt` on a GPU too."""
        return (Target.gpu, Target.portable) if self.tensorrt else (Target.portable,)

    def text(self, versions: Sequence[int] = (), labels: Labels | None = None, target: Target = Target.portable) -> str:
        """The file: serves `versions`, or the newest if none are named, under `labels`."""
        lines = [*self._head(), *self._file(target), *self._scheduling(target)]
        lines += [*self._versions(versions, labels or Labels()), *self._parameters()]
        return "\n".join([*lines, *self._warmup(), *self._tensorrt(target)]) + "\n"

    def _head(self) -> Iterator[str]:
        yield "# Written by 'make configs' and 'reverie export' from registry/configuration.py; not to be edited."
        yield from _comment(self.about)
        yield f'name: "{self.name}"'
        yield f'backend: "{self.backend}"'
        yield f"max_batch_size: {self.max_batch_size}"
        if self.decoupled:
            yield "model_transaction_policy { decoupled: true }"
        yield from _tensors("input", self.inputs)
        yield from _tensors("output", self.outputs)

    def _file(self, target: Target) -> Iterator[str]:
        if target is Target.gpu and self.gpu_file:
            yield f'default_model_filename: "{self.gpu_file}"'

    def _scheduling(self, target: Target) -> Iterator[str]:
        if self.max_queue:
            yield f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {self.max_queue} }} }}"
        yield from _comment(self.instances_about)
        kind = InstanceKind.gpu if target is Target.gpu else self.kind
        yield f"instance_group [ {{ count: {self.instances} kind: {kind.value} }} ]"

    def _versions(self, versions: Sequence[int], labels: Labels) -> Iterator[str]:
        if versions:
            yield from _comment(self.versions_about)
            yield f"version_policy {{ specific {{ versions: {_list(versions)} }} }}"
        for key, value in labels.parameters().items():
            yield _parameter(key, value)

    def _parameters(self) -> Iterator[str]:
        for parameter in self.parameters:
            yield from _comment(parameter.about)
            yield _parameter(parameter.name, parameter.value)

    def _warmup(self) -> Iterator[str]:
        types = {tensor.name: tensor.type for tensor in self.inputs}
        for shapes in self.warmup:
            yield f'model_warmup [ {{ name: "{shapes.text()}" batch_size: {shapes.batch}'
            for name, dims in shapes.of.items():
                tensor = f"data_type: {types[name]} dims: {_list(dims)} zero_data: true"
                yield f'  inputs {{ key: "{name}" value {{ {tensor} }} }}'
            yield "} ]"

    def _tensorrt(self, target: Target) -> Iterator[str]:
        if target is Target.gpu and self.tensorrt:
            yield 'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt"'
            for key, value in self.tensorrt.parameters().items():
                yield f'  parameters {{ key: "{key}" value: "{value}" }}'
            yield "} ] } }"


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.splitlines():
        yield from textwrap.wrap(paragraph, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _tensors(field_name: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    yield f"{field_name} ["
    for i, t in enumerate(tensors):
        optional = " optional: true" if t.optional else ""
        comma = "," if i + 1 < len(tensors) else ""
        yield f'  {{ name: "{t.name}" data_type: {t.type} dims: {_list(t.dims)}{optional} }}{comma}'
    yield "]"


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
