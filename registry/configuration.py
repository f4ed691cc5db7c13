"""Every `config.pbtxt`, written from one typed description; the files are output and never edited by hand.

Two flavours of one description: the portable `config.pbtxt` (the embedded server, and any Triton), and
`configs/gpu.pbtxt` (Triton's `--model-config-name=gpu`) with TensorRT under ONNX Runtime.

What is left out on purpose: `default_timeout_microseconds`, which can starve Triton's batcher
(triton-inference-server/server#8870; a bounded queue and the caller's deadline shed load instead);
preferred batch sizes; CUDA graphs, which need fixed shapes; the response cache, since every picture is
another and a cache slows what misses it; a prefix of the engine cache, which would replace the graph's name
and with it the hash of its weights (microsoft/onnxruntime#6455).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from reverie_client.labels import Labels

from serving.style.files import GPU_MODEL
from serving.style.margin import MARGIN
from serving.style.stylist import UNTILED_SIDE

ENGINE_CACHE = "/var/cache/reverie/tensorrt"
"""Outside the repository: whatever is newer inside makes Triton reload the model."""
_WIDTH = 116


class Flavour(str, Enum):
    """What a configuration is for; the values are paths in a model's folder."""

    portable = "config.pbtxt"
    gpu = "configs/gpu.pbtxt"


class Kind(str, Enum):
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
class Shapes:
    """Shapes of every input, without the batch, and the batch they come in."""

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

    least: Shapes
    usual: Shapes
    most: Shapes
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
    kind: Kind = Kind.cpu
    instances_about: str = ""
    parameters: tuple[Parameter, ...] = ()
    warmup: tuple[Shapes, ...] = ()
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
    def flavours(self) -> tuple[Flavour, ...]:
        """The files there are; without one of its own, Triton takes `config.pbtxt` on a GPU too."""
        return (Flavour.gpu, Flavour.portable) if self.tensorrt else (Flavour.portable,)

    def text(
        self, versions: Sequence[int] = (), labels: Labels | None = None, flavour: Flavour = Flavour.portable
    ) -> str:
        """The file: serves `versions`, or the newest if none are named, under `labels`."""
        lines = [*self._head(), *self._file(flavour), *self._scheduling(flavour)]
        lines += [*self._versions(versions, labels or Labels()), *self._parameters()]
        return "\n".join([*lines, *self._warmup(), *self._tensorrt(flavour)]) + "\n"

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

    def _file(self, flavour: Flavour) -> Iterator[str]:
        if flavour is Flavour.gpu and self.gpu_file:
            yield f'default_model_filename: "{self.gpu_file}"'

    def _scheduling(self, flavour: Flavour) -> Iterator[str]:
        if self.max_queue:
            yield f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {self.max_queue} }} }}"
        yield from _comment(self.instances_about)
        kind = Kind.gpu if flavour is Flavour.gpu else self.kind
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

    def _tensorrt(self, flavour: Flavour) -> Iterator[str]:
        if flavour is Flavour.gpu and self.tensorrt:
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


def language_model(positions: int) -> ModelConfiguration:
    """The ONNX model `language_model`, which sees `positions` tokens at once."""

    def tokens(batch: int, length: int) -> Shapes:
        return Shapes(batch, {"token_ids": (length,)})

    return ModelConfiguration(
        name="language_model",
        backend="onnxruntime",
        about="The log-probability of every token of a text but the first, given those before it; "
        f"at most {positions} tokens are looked at. `generate` and `score` build on this folder's files.",
        inputs=(Tensor("token_ids", "TYPE_INT32", (-1,)),),
        outputs=(Tensor("token_logprobs", "TYPE_FP32", (-1,)),),
        max_batch_size=8,
        max_queue=256,
        kind=Kind.auto,
        # The shortest text: versions that see fewer tokens than the stable one are loaded under its configuration.
        warmup=(tokens(1, 2),),
        tensorrt=TensorRT(least=tokens(1, 2), usual=tokens(4, positions + 1), most=tokens(8, positions + 1)),
        versions_about="Those that a label names. `generate` and `score` pin the stable version; the one before "
        "stays until they have moved on, and for a rollback.",
        facts={"positions": positions},
    )


def style(styles: Sequence[str]) -> ModelConfiguration:
    """The ONNX model `style`."""
    count = len(styles)

    def pictures(batch: int, side: int) -> Shapes:
        return Shapes(batch, {"image": (side, side, 3), "style_weights": (count,)})

    return ModelConfiguration(
        name="style",
        backend="onnxruntime",
        about=f"Pictures in, restyled pictures out; styles: {', '.join(styles)}.",
        inputs=(Tensor("image", "TYPE_UINT8", (-1, -1, 3)), Tensor("style_weights", "TYPE_FP32", (count,))),
        outputs=(Tensor("stylized", "TYPE_UINT8", (-1, -1, 3)),),
        max_batch_size=8,
        max_queue=64,
        kind=Kind.auto,
        warmup=(pictures(1, 256),),
        parameters=(
            Parameter("styles", ",".join(styles), "Names, in the order of the weights; clients list them."),
            Parameter(
                "max_waiting", "10", "Of the stand-in for the ONNX Runtime backend; a GPU's takes whole batches."
            ),
        ),
        # `stylize` sends pictures with sides of 16 to 2048 in one piece, with a margin (`serving/style/stylist.py`).
        tensorrt=TensorRT(
            least=pictures(1, 16),
            usual=pictures(1, 512 + 2 * MARGIN),
            most=pictures(8, UNTILED_SIDE + 2 * MARGIN),
            precision="FP16",
        ),
        gpu_file=GPU_MODEL,
        versions_about="Those that a label names. `stylize` pins the stable version; the one before stays until it "
        "has moved on, and for a rollback.",
        facts={"styles": list(styles)},
    )


def stylize() -> ModelConfiguration:
    """The Python model `stylize`."""
    return ModelConfiguration(
        name="stylize",
        backend="python",
        about="A picture file in, the picture in a style or a blend of styles out; calls style.\n"
        "Parameters of a request: docs/stylize.md.",
        inputs=(Tensor("image", "TYPE_STRING", (1,)),),
        outputs=(Tensor("stylized", "TYPE_STRING", (1,)),),
        parameters=(
            Parameter(
                "workers",
                "4",
                "Pictures of one client worked on at once, so that some are decoded and encoded while others are in the "
                "network; style batches those of equal size. With a GPU, more keep it busy.",
            ),
            Parameter(
                "max_waiting",
                "8",
                "How many more of it may wait; one more is refused as unavailable. All clients together have twice as "
                "many places.",
            ),
        ),
    )


def generate() -> ModelConfiguration:
    """The Python model `generate`."""
    return ModelConfiguration(
        name="generate",
        backend="python",
        about="Continues a prompt with the stable language_model; one request, one response or a stream of them.\n"
        "Parameters of a request: docs/generate.md.",
        decoupled=True,
        inputs=(Tensor("text_input", "TYPE_STRING", (1,)), Tensor("stop", "TYPE_STRING", (-1,), optional=True)),
        outputs=(
            Tensor("text_output", "TYPE_STRING", (-1,)),
            Tensor("index", "TYPE_INT32", (-1,)),
            Tensor("finish_reason", "TYPE_STRING", (-1,)),
            Tensor("logprobs", "TYPE_STRING", (-1,)),
        ),
        parameters=(
            Parameter("precision", "int8", "int8, float16 or float32."),
            Parameter("workers", "0", "Processes that step sequences; 0 for one a core."),
            Parameter(
                "slots",
                "14",
                "For each of them: sequences of one client that share a step, and how many more of its requests may wait. "
                "Others find a quarter more slots, and as many places again.",
            ),
            Parameter("max_waiting", "4"),
        ),
    )


def score() -> ModelConfiguration:
    """The Python model `score`."""
    return ModelConfiguration(
        name="score",
        backend="python",
        about="How probable language_model finds a text.",
        inputs=(Tensor("text_input", "TYPE_STRING", (1,)),),
        outputs=(
            Tensor("logprob", "TYPE_FP32", (1,)),
            Tensor("tokens", "TYPE_STRING", (-1,)),
            Tensor("token_logprobs", "TYPE_FP32", (-1,)),
        ),
    )


_PROGRESS = (
    Tensor("step", "TYPE_INT32", (1,)),
    Tensor("steps", "TYPE_INT32", (1,)),
    Tensor("stage", "TYPE_INT32", (1,)),
    Tensor("loss", "TYPE_FP32", (1,)),
    Tensor("loss_parts", "TYPE_STRING", (1,)),
    Tensor("seconds", "TYPE_FP32", (1,)),
    Tensor("image", "TYPE_STRING", (1,)),
    Tensor("shape", "TYPE_INT32", (3,)),
    Tensor("frame", "TYPE_INT32", (1,)),
    Tensor("exact", "TYPE_BOOL", (1,)),
    Tensor("stopped", "TYPE_STRING", (1,)),
    Tensor("done", "TYPE_BOOL", (1,)),
)
_JOBS = (
    Parameter(
        "max_seconds", "1800", "That a job may take, waiting for others included; it ends with the picture that it has."
    ),
    Parameter("max_pixel_steps", "4000000000", "Work of a job at most: its steps, each times the pixels of its size."),
)
_PLACED = "TensorFlow places its work on a GPU where one is visible; the instance itself needs none."


def deepdream() -> ModelConfiguration:
    """The Python model `deepdream`."""
    return ModelConfiguration(
        name="deepdream",
        backend="python",
        about="Dreams on a picture, octave by octave; one request, a response for every step.",
        decoupled=True,
        inputs=(Tensor("image", "TYPE_STRING", (1,)), Tensor("guide_image", "TYPE_STRING", (1,), optional=True)),
        outputs=_PROGRESS,
        instances_about=_PLACED,
        parameters=_JOBS,
    )


def style_transfer() -> ModelConfiguration:
    """The Python model `style_transfer`."""
    return ModelConfiguration(
        name="style_transfer",
        backend="python",
        about="Paints a picture in the style of another; one request, a response for every step.",
        decoupled=True,
        inputs=(
            Tensor("image", "TYPE_STRING", (1,)),
            Tensor("style_image", "TYPE_STRING", (-1,)),
            Tensor("style_mask", "TYPE_STRING", (-1,), optional=True),
        ),
        outputs=_PROGRESS,
        instances_about=_PLACED,
        parameters=_JOBS,
    )


EXPORTED: Mapping[str, Callable[..., ModelConfiguration]] = {"language_model": language_model, "style": style}
"""Models that come in versions; a version's manifest holds the arguments."""
DEPENDENTS: Mapping[str, tuple[str, ...]] = {"language_model": ("generate", "score"), "style": ("stylize",)}
"""The Python models that pin a version of them, and must be reloaded after it changed."""
FIXED: Mapping[str, Callable[[], ModelConfiguration]] = {
    f.__name__: f for f in (deepdream, generate, score, style_transfer, stylize)
}
"""Models whose logic is in this project and whose one version never changes."""
