"""Every model that is served, described once; `registry.model_configuration` writes their `config.pbtxt` from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from registry.model_configuration import InstanceKind, ModelConfiguration, Parameter, ShapeProfile, Tensor, TensorRT
from serving.style.files import GPU_MODEL
from serving.style.margin import MARGIN
from serving.style.stylist import UNTILED_SIDE
from serving.style.table import VECTOR, WEIGHTS


def language_model(positions: int) -> ModelConfiguration:
    """The ONNX model `language_model`, which sees `positions` tokens at once."""

    def tokens(batch: int, length: int) -> ShapeProfile:
        return ShapeProfile(batch, {"token_ids": (length,)})

    return ModelConfiguration(
        name="language_model",
        backend="onnxruntime",
        about="The log-probability of every token of a text but the first, given those before it; "
        f"at most {positions} tokens are looked at. `generate` and `score` build on this folder's files.",
        inputs=(Tensor("token_ids", "TYPE_INT32", (-1,)),),
        outputs=(Tensor("token_logprobs", "TYPE_FP32", (-1,)),),
        max_batch_size=8,
        max_queue=256,
        kind=InstanceKind.auto,
        # The shortest text: versions that see fewer tokens than the stable one are loaded under its configuration.
        warmup=(tokens(1, 2),),
        tensorrt=TensorRT(least=tokens(1, 2), usual=tokens(4, positions + 1), most=tokens(8, positions + 1)),
        versions_about="Those that a label names. `generate` and `score` pin the stable version; the one before "
        "stays until they have moved on, and for a rollback.",
        facts={"positions": positions},
    )


_NAMES_OF_WEIGHTS = "Names, in the order of the weights; clients list them."
_NAMES_OF_VECTORS = "Names, in the order of the vectors in styles.npz; clients list them."


def style(styles: Sequence[str], numbers: int = 0, network: str = "") -> ModelConfiguration:
    """The ONNX model `style`; of versions before styles were vectors, `numbers` is 0.

    Args:
        styles: names.
        numbers: in a style's vector; 0 where the graph takes weights over `styles`.
        network: hash of what the vectors belong to.
    """
    taken = Tensor(VECTOR, "TYPE_FP32", (numbers,)) if numbers else Tensor(WEIGHTS, "TYPE_FP32", (len(styles),))

    def pictures(batch: int, side: int) -> ShapeProfile:
        return ShapeProfile(batch, {"image": (side, side, 3), taken.name: taken.dims})

    return ModelConfiguration(
        name="style",
        backend="onnxruntime",
        about=f"Pictures in, restyled pictures out; styles: {', '.join(styles)}.",
        inputs=(Tensor("image", "TYPE_UINT8", (-1, -1, 3)), taken),
        outputs=(Tensor("stylized", "TYPE_UINT8", (-1, -1, 3)),),
        max_batch_size=8,
        max_queue=64,
        kind=InstanceKind.auto,
        warmup=(pictures(1, 256),),
        parameters=(
            Parameter("styles", ",".join(styles), _NAMES_OF_VECTORS if numbers else _NAMES_OF_WEIGHTS),
            *((Parameter("network", network, "What a vector was made for; it fits no other."),) if numbers else ()),
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
        facts={"styles": list(styles), **({"numbers": numbers, "network": network} if numbers else {})},
    )


def stylize() -> ModelConfiguration:
    """The Python model `stylize`."""
    return ModelConfiguration(
        name="stylize",
        backend="python",
        about="A picture file in, the picture in a style or a blend of styles out; calls style.\n"
        "Parameters of a request: docs/stylize.md.",
        inputs=(Tensor("image", "TYPE_STRING", (1,)), Tensor("style_vector", "TYPE_FP32", (-1,), optional=True)),
        outputs=(Tensor("stylized", "TYPE_STRING", (1,)), Tensor("styles", "TYPE_STRING", (-1,))),
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
