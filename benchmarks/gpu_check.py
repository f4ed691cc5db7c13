"""Every ONNX model on an NVIDIA GPU beside the CPU: `make gpu-check`.

    python -m benchmarks.gpu_check [--repository model_repository] [--seconds 1]

Runs the stable version's `model.onnx` of every exported model through ONNX Runtime's CUDA provider, and through
TensorRT's where its libraries are, compares with the CPU on the recorded inputs, and measures latency and
throughput by batch. DeepDream and Gatys run once where TensorFlow sees the GPU. The last line on stdout is one
JSON object. Without a GPU it says so and exits 0; where there is half of one it says what is missing and exits
1, as it does when an answer departs from the CPU's.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer

from registry import configuration, golden
from registry.model_configuration import ModelConfiguration
from registry.repository import Repository
from registry.rollout import Rollout
from reverie.onnx_sessions import CPU, open_session

BATCHES = (1, 2, 4, 8)
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def driver() -> str | None:
    """Name, driver and memory of the first GPU, as nvidia-smi says it; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def session(path: Path, kind: str, cache: Path, describe: ModelConfiguration) -> ort.InferenceSession:
    """`path` on one provider, with what the GPU configuration gives it.

    Raises:
        RuntimeError: the provider is there but did not start, for want of a library.
    """
    options: dict[str, str] = {}
    if kind == "tensorrt" and describe.tensorrt:
        shapes = describe.tensorrt
        options = {
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": str(cache),
            "trt_layer_norm_fp32_fallback": "true",
            "trt_profile_min_shapes": shapes.least.text(),
            "trt_profile_opt_shapes": shapes.usual.text(),
            "trt_profile_max_shapes": shapes.most.text(),
        }
    chosen = [(_PROVIDERS[kind], options)] if kind in _PROVIDERS else []
    made = open_session(path, [*chosen, CPU])
    if chosen and chosen[0][0] not in made.get_providers():
        raise RuntimeError(f"{chosen[0][0]} did not start; ONNX Runtime logged above which library it misses")
    return made


def measure(model: ort.InferenceSession, inputs: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
    """Median and 95th percentile in ms, and rows a second, after two calls that do not count."""
    took: list[float] = []
    for _ in range(2):
        model.run(None, inputs)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 5:
        began = time.perf_counter()
        model.run(None, inputs)
        took.append(time.perf_counter() - began)
    rows = len(next(iter(inputs.values())))
    p95 = sorted(took)[int(0.95 * (len(took) - 1))]
    return {
        "p50_ms": round(statistics.median(took) * 1e3, 3),
        "p95_ms": round(p95 * 1e3, 3),
        "rows_per_second": round(rows / statistics.median(took), 1),
    }


def check_model(model: Rollout, kinds: list[str], seconds: float) -> dict[str, Any]:
    """Every provider's difference to the CPU and its speed by batch, for the stable version."""
    version = model.labels.stable
    assert version is not None
    folder, describe = model.repository.folder(model.name, version), model.description(version)
    recorded = golden.read(folder)
    if recorded is None:
        return {"skipped": "no recorded inputs"}
    found: dict[str, Any] = {"version": version}
    with tempfile.TemporaryDirectory(prefix="reverie-engines-") as cache:
        for kind in ["cpu", *kinds]:
            print(f"{model.name} on {kind}", file=sys.stderr, flush=True)
            try:
                found[kind] = _on(kind, folder, describe, recorded, Path(cache), seconds)
            except Exception as error:  # A provider's failure is a finding; the others still run.
                found[kind] = {"error": str(error).splitlines()[0]}
    return found


def _on(
    kind: str,
    folder: Path,
    describe: ModelConfiguration,
    recorded: golden.GoldenOutputs,
    cache: Path,
    seconds: float,
) -> dict[str, Any]:
    began = time.perf_counter()
    file = (kind != "cpu" and describe.gpu_file) or golden.MODEL
    made = session(folder / file, kind, cache, describe)
    answered = dict(zip([o.name for o in made.get_outputs()], made.run(None, recorded.inputs), strict=True))
    expected = recorded.answers[file]
    loaded = round(time.perf_counter() - began, 2)
    golden.compare(answered, expected)
    far = max(float(np.abs(answered[n].astype(np.float64) - a.astype(np.float64)).max()) for n, a in expected.items())
    batches = {}
    for batch in BATCHES:
        inputs = {n: np.repeat(a[:1], batch, axis=0) for n, a in recorded.inputs.items()}
        batches[str(batch)] = measure(made, inputs, seconds)
    return {"file": file, "first_answer_seconds": loaded, "largest_difference": far, "batches": batches}


def iterative() -> dict[str, Any]:
    """Seconds a step of DeepDream and of Gatys in TensorFlow on the GPU, with the compact extractor."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return {"skipped": "TensorFlow sees no GPU; 'make setup GPU=1' installs its CUDA build"}
    from synthesis import deepdream, gatys

    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    dream = deepdream.DeepDreamParameters(recipe="book", features="compact", iterations=20)
    transfer = gatys.GatysParameters(features="compact", size=256, steps=20)
    began = time.perf_counter()
    deepdream.dream(picture, dream)
    dreamed = time.perf_counter()
    gatys.transfer(picture, picture[::-1].copy(), transfer)
    return {
        "deepdream_seconds": round(dreamed - began, 2),
        "style_transfer_seconds": round(time.perf_counter() - dreamed, 2),
    }


def check(repository: Path, seconds: float) -> tuple[dict[str, Any], int]:
    """What there is to say, and the exit status."""
    gpu = driver()
    available = ort.get_available_providers()
    kinds = [kind for kind, provider in _PROVIDERS.items() if provider in available]
    found: dict[str, Any] = {"gpu": gpu, "onnxruntime": ort.__version__, "providers": available}
    if gpu is None:
        return {**found, "skipped": "no NVIDIA GPU on this machine: nvidia-smi is absent or sees none"}, 0
    if not kinds:
        missing = "this onnxruntime has no CUDA provider; 'make setup GPU=1' installs the build that has"
        return {**found, "missing": missing}, 1
    files = Repository(repository)
    found["models"] = {
        name: check_model(Rollout(name, files), kinds, seconds)
        for name in configuration.EXPORTED
        if files.versions(name)
    }
    found["iterative"] = iterative()
    failed = any("error" in model.get(kind, {}) for model in found["models"].values() for kind in kinds)
    return found, int(failed)


def main(
    repository: Annotated[Path, typer.Option(help="Folder of the published models.")] = Path("model_repository"),
    seconds: Annotated[float, typer.Option(help="How long to measure each batch size.")] = 1.0,
) -> None:
    """Compare every ONNX model on a GPU with the CPU; print the result as JSON."""
    found, status = check(repository, seconds)
    for word in ("skipped", "missing"):
        if word in found:
            print(f"{word}: {found[word]}", file=sys.stderr)
    print(json.dumps(found))
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(main)
