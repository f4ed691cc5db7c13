"""Milliseconds a picture: Reverie's style network beside Johnson's, in one run on one machine.

    make bench-style [STYLES="a.jpg b.jpg" PHOTOS=held-out/ CLASSIFIER=file.tflite WEIGHTS=folder]

- *Johnson* is the network of Johnson et al. 2016 at its full size (1.68 million parameters), with random weights
  (the work does not depend on them) unless a run is given, in ONNX Runtime (our own export: fused normalization,
  `Resize`), in OpenVINO on that graph, and in TensorFlow as a traced function, in float32 as it was published.
- *Reverie* is what a CPU serves: the version in `model_repository`, or with `--run` a run's export, or with
  `--untrained` the preset `fast` with random weights. Its convolutions are 8-bit; `variants` has the other
  precisions beside it, for the same work in float32.
- `stylize_end_to_end_ms_512` is the request of an app to the served version: JPEG bytes to JPEG bytes through Triton
  over gRPC. At 1024 pixels, the default limit of a request, it goes in one piece, at 4096 in tiles.
- With paintings and photographs the quality is measured too, as `reverie eval style` does.

Sides alternate, and the best of several runs counts, for all alike. What is not installed or not given is null, and
standard error says why. Takes about three minutes, and with quality longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import keras
import numpy as np
import onnx
import tensorflow as tf
import typer
from reverie_client import Client

from benchmarks.timing import say, seconds_of
from export.onnx.precision import CPU_DEFAULT, Precision
from export.style.export import graph_in, graph_of, sample_photos, table_of
from imaging import images
from reverie.onnx_sessions import open_session
from reverie.restylers import DEFAULT_STRENGTH, of_graph
from reverie.style_evaluation import held_out, rounded
from serving.demo.run import PICTURES
from serving.style.choice import StyleInput
from serving.style.files import GPU_MODEL
from serving.style.margin import Margins
from serving.style.table import WEIGHTS, StyleTable
from serving.triton.server import TritonServer
from synthesis.style.network import StyleNetwork, StyleNetworkConfig, build
from training.runs import Run
from training.style import train
from training.style.evaluation.classifier import Classifier
from training.style.evaluation.evaluate import Judges, evaluate, look_at
from training.style.evaluation.faces import FaceDetector
from training.style.evaluation.passes import PassesSettings, count_passes
from training.style.evaluation.perception import painting_statistics

PROJECT = Path(__file__).resolve().parents[1]
REPOSITORY = PROJECT / "model_repository"
CACHE = Path("cache")
SIZES = (256, 512, 1024)
LARGE_SIZES = (1024, 2048, 4096)
ROUNDS = 5
SERVED_ROUNDS = 25
"""More, since a few milliseconds of a short request are what is asked."""

Paint = Callable[[np.ndarray, StyleInput], Any]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Style:
    """A style network as a file.

    Attributes:
        file: the ONNX graph; table: its styles.
    """

    file: Path
    table: StyleTable

    @classmethod
    def served(cls) -> Style:
        """Return the newest version in the repository."""
        folder = max((p for p in (REPOSITORY / "style").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        return cls(folder / "model.onnx", StyleTable.read(folder))

    @classmethod
    def of(cls, network: StyleNetwork, file: Path, graph: onnx.ModelProto) -> Style:
        """Return the export of a network, written to `file`."""
        file.write_bytes(graph.SerializeToString())
        return cls(file, table_of(network))

    @property
    def names(self) -> tuple[str, ...]:
        """Of its styles."""
        return self.table.names

    @property
    def first(self) -> StyleInput:
        """What the graph takes for the first style."""
        return self.table.inputs()[0]


@dataclass(frozen=True)
class Options:
    """What is measured; see the options of `main`."""

    run: Path | None
    untrained: bool
    johnson_run: Path | None
    alike_run: Path | None
    style: list[Path]
    photos: Path | None
    content: Path | None
    classifier: Path | None
    closely: int
    passes: int
    noise_passes: int

    @property
    def network_name(self) -> str:
        return "untrained" if self.untrained else self.run.name if self.run else "served"


def main(
    style: Annotated[list[Path], typer.Option(help="A painting the network knows; repeat.", default_factory=list)],
    run: Annotated[Path | None, typer.Option(help="A finished style run; default: the served version.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="The preset fast with random weights.")] = False,
    johnson_run: Annotated[
        Path | None, typer.Option(help="A finished run of the preset johnson, for its quality.")
    ] = None,
    alike_run: Annotated[
        Path | None, typer.Option(help="A finished run of the preset fast, trained as --johnson-run was.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photographs that no training saw, for the quality.")
    ] = None,
    content: Annotated[
        Path | None, typer.Option(help="Folder that the runs were trained on: those held out of it too.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="TensorFlow Lite image classifier, for what is recognized.")
    ] = None,
    closely: Annotated[int, typer.Option(help="Photographs that VGG19 looks at.")] = 12,
    passes: Annotated[int, typer.Option(help="L-BFGS passes tried at most, to count them; 0 for none.")] = 0,
    noise_passes: Annotated[int, typer.Option(help="The same from noise; 0 for none.")] = 0,
) -> None:
    """Measure everything and print one JSON line."""
    options = Options(
        run, untrained, johnson_run, alike_run, style, photos, content, classifier, closely, passes, noise_passes
    )
    with tempfile.TemporaryDirectory() as name:
        johnson = train.load(Run(options.johnson_run)) if options.johnson_run else _random("johnson")
        variants = _ours(options, Path(name))
        served = next(iter(variants.values()))
        theirs = Style.of(johnson, Path(name) / "johnson.onnx", graph_of(johnson, merges=False))
        result: dict[str, Any] = {"cores": os.cpu_count(), "network": options.network_name}
        result |= latencies(served, theirs, johnson)
        result |= speedups(result)
        result |= through_triton(Style.served())
        result |= large_pictures(served)
        others = {"johnson": theirs} if options.johnson_run else {}
        result |= quality(options, variants, others | _alike(options, Path(name)))
    print(json.dumps(result))


def _ours(options: Options, folder: Path) -> dict[str, Style]:
    """Our network in every precision there is, that of CPUs first."""
    run = Run(options.run) if options.run else None
    if not (options.untrained or run):
        served = Style.served()
        gpu = Style(served.file.with_name(GPU_MODEL), served.table)
        return {"served": served} | ({"float16": gpu} if gpu.file.exists() else {})
    network = train.load(run) if run and not options.untrained else _random("fast")
    photos = sample_photos(run) if run else [_photo(256)[0]]
    precisions = sorted(Precision, key=lambda p: p is not CPU_DEFAULT)
    return {p.value: Style.of(network, folder / f"{p.value}.onnx", graph_in(p, network, photos)) for p in precisions}


def _alike(options: Options, folder: Path) -> dict[str, Style]:
    if options.alike_run is None:
        return {}
    network = train.load(Run(options.alike_run))
    return {"alike": Style.of(network, folder / "alike.onnx", graph_of(network))}


def _random(preset: str) -> StyleNetwork:
    keras.utils.set_random_seed(1)
    return build(StyleNetworkConfig(tuple("abcde"), preset))


# Speed.


def latencies(ours: Style, theirs: Style, johnson: StyleNetwork) -> dict[str, float | None]:
    """Return the milliseconds of one picture at each size, in every runtime that is here."""
    sides = {
        "reverie_ms": (onnxruntime_paint(ours), ours.first),
        "johnson_onnxruntime_ms": (onnxruntime_paint(theirs), theirs.first),
        "johnson_tensorflow_ms": (tensorflow_paint(johnson), _first_weight(johnson)),
        "johnson_openvino_ms": (openvino_paint(theirs), theirs.first),
        "reverie_openvino_ms": (openvino_paint(ours), ours.first),
    }
    result: dict[str, float | None] = {}
    for size in SIZES:
        say(f"{size}x{size} pixels")
        here = {name: partial(paint, _photo(size), style) for name, (paint, style) in sides.items() if paint}
        best = alternating(here)
        result |= {f"{name}_{size}": best.get(name) for name in sides}
    return result


def _photo(size: int) -> np.ndarray:
    return images.resize(images.read(PICTURES / "pagoda.jpg"), size, size)[None]


def _first_weight(network: StyleNetwork) -> StyleInput:
    """The first style as Keras takes it."""
    return StyleTable.of_weights(network.config.styles).inputs()[0]


def alternating(functions: Mapping[Key, Callable[[], Any]], rounds: int = ROUNDS) -> dict[Key, float]:
    """Return the best milliseconds of each function; a slower second of the machine meets all of them."""
    for function in functions.values():
        function()
    times: dict[Key, list[float]] = {}
    for _ in range(rounds):
        for name, function in functions.items():
            times.setdefault(name, []).append(1e3 * seconds_of(function))
    return {name: round(min(each), 2) for name, each in times.items()}


def onnxruntime_paint(network: Style) -> Paint:
    """Return a function that runs the graph in ONNX Runtime on all cores."""
    session = open_session(network.file)
    return lambda image, style: session.run(None, {"image": image, **style})[0]


def tensorflow_paint(network: StyleNetwork) -> Paint:
    """Return the Keras network as a traced TensorFlow function; its input and output are those of the graph."""

    @tf.function
    def paint(image, weights):
        painted = network((tf.cast(image, tf.float32), weights))
        return tf.cast(tf.clip_by_value(tf.round(painted), 0.0, 255.0), tf.uint8)

    return lambda image, style: paint(tf.constant(image), tf.constant(style[WEIGHTS])).numpy()


def openvino_paint(network: Style) -> Paint | None:
    """Return a function that runs the graph in OpenVINO in float32, or None where it is not installed."""
    if find_spec("openvino") is None:
        say("openvino is not installed; its figures are null")
        return None
    openvino = import_module("openvino")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(network.file), "CPU", settings).create_infer_request()
    return lambda image, style: request.infer({"image": image, **style})[0]


def speedups(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Return Johnson's milliseconds over Reverie's, for each runtime and size; and how time grows with the pixels."""
    result: dict[str, float | None] = {}
    for size in SIZES:
        ours = measured[f"reverie_ms_{size}"]
        for runtime in ("onnxruntime", "openvino", "tensorflow"):
            theirs = measured[f"johnson_{runtime}_ms_{size}"]
            result[f"speedup_vs_johnson_{runtime}_{size}"] = theirs and round(theirs / ours, 2)
    small, large = (measured[f"reverie_ms_{size}"] / size**2 for size in (256, 1024))
    return result | {"ms_per_pixel_1024_over_256": round(large / small, 2)}


# The service.


def through_triton(network: Style) -> dict[str, float]:
    """Measure requests through Triton: at 512 pixels, beside decoding, network and encoding alone, and at large sizes.

    What the margin costs is not counted as the server's but given by itself, and so is `detail` of 2.
    """
    say("through Triton")
    picture, style = _photo(512), network.first
    data = images.encode(picture[0], "jpeg")
    paint = onnxruntime_paint(network)

    def without_margin() -> bytes:
        return images.encode(paint(images.decode(data)[None], style)[0], "jpeg")

    def alone() -> bytes:
        wide = Margins().put_on(images.decode(data))
        return images.encode(Margins().take_off(paint(wide[None], style)[0]), "jpeg")

    with (
        tempfile.TemporaryDirectory() as folder,
        TritonServer(REPOSITORY, log=Path(folder) / "triton.log") as server,
        Client(server.address.grpc) as client,
    ):
        request = partial(client.stylize, data, style=network.names[0], format="jpeg")
        ways: dict[str, Callable[[], bytes]] = {
            "served": request,
            "alone": alone,
            "without_margin": without_margin,
            "detail": partial(request, detail=2.0),
        }
        best = alternating(ways, rounds=SERVED_ROUNDS)
        large = alternating({size: partial(_stylize_large, client, size) for size in (SIZES[-1], LARGE_SIZES[-1])}, 3)
    small, largest = large
    return {
        "stylize_end_to_end_ms_512": best["served"],
        "serving_overhead": round(best["served"] / best["alone"], 3),
        "margin_cost_512": round(best["alone"] / best["without_margin"], 3),
        "detail_2_cost_512": round(best["detail"] / best["served"], 3),
        **{f"stylize_end_to_end_ms_{size}": ms for size, ms in large.items()},
        f"stylize_ms_per_pixel_{largest}_over_{small}": _growth(large),
    }


def _stylize_large(client: Client, size: int) -> bytes:
    return client.stylize(_jpeg(size), format="jpeg", size=size)


@lru_cache
def _jpeg(size: int) -> bytes:
    return images.encode(_photo(size)[0], "jpeg")


def _growth(times: Mapping[int, float]) -> float:
    """Time a pixel of the largest size over that of the smallest."""
    small, large = min(times), max(times)
    return round(times[large] / times[small] / (large / small) ** 2, 2)


def large_pictures(network: Style) -> dict[str, float]:
    """Return how time grows with large pictures, and the memory of the largest; see `benchmarks.style_memory`."""
    found = {size: _in_a_process(network, size) for size in LARGE_SIZES}
    times = {size: cost["ms"] for size, cost in found.items()}
    small, large = min(times), max(times)
    return {f"large_ms_{size}": ms for size, ms in times.items()} | {
        f"ms_per_pixel_{large}_over_{small}": _growth(times),
        f"peak_mib_at_{large}": found[large]["peak_mib"],
    }


def _in_a_process(network: Style, size: int) -> dict[str, float]:
    say(f"{size}x{size} pixels in a process of its own")
    command = [sys.executable, "-m", "benchmarks.style_memory", str(network.file), str(size)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout)


# Quality.


def quality(options: Options, variants: Mapping[str, Style], others: Mapping[str, Style]) -> dict[str, Any]:
    """Return each variant's milliseconds, and with paintings and photographs its figures by `training.style.evaluation`.

    Args:
        others: networks beside ours, by name.
    """
    say("every precision")
    times = alternating({name: partial(onnxruntime_paint(v), _photo(512), v.first) for name, v in variants.items()})
    result: dict[str, Any] = {"variants": {name: {"ms_512": times[name]} for name in variants}}
    if not (options.style and (options.photos or options.content)):
        say("without paintings and photographs (STYLES=, PHOTOS=) there is no quality")
        return result
    measure = _yardstick(options)
    for name, variant in variants.items():
        result["variants"][name] |= measure(name, variant)
    return result | {name: measure(name, network) for name, network in others.items()}


def _yardstick(options: Options) -> Callable[[str, Style], dict[str, Any]]:
    """Measures a network, under a name, on the photographs of the options."""
    paintings = {path.stem: path for path in options.style}
    paths = held_out([options.photos] if options.photos else [], options.content, None)
    judges = Judges(Classifier(options.classifier) if options.classifier else None, FaceDetector())
    photos = look_at(paths, 512, options.closely, judges)
    targets = {
        name: painting_statistics(images.read(path), CACHE / "style_targets") for name, path in paintings.items()
    }
    settings = PassesSettings(options.passes, options.noise_passes, cache=CACHE / "style_curves")

    def measure(name: str, network: Style) -> dict[str, Any]:
        restyler = of_graph(name, network.file, network.table)
        found = evaluate(restyler, photos, targets, DEFAULT_STRENGTH, judges, say)
        if options.passes:
            found["passes"] = count_passes(restyler, paintings, paths, DEFAULT_STRENGTH, settings, say)
        return rounded(found)

    return measure


if __name__ == "__main__":
    typer.run(main)
