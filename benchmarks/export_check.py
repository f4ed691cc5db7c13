"""The whole way of a retrained model into service, under load: `make export-check`.

    python -m benchmarks.export_check [--no-text]

Trains two tiny models, exports both, and takes them through publication, a label, a canary and a rollback on
an embedded server of its own, while clients call every endpoint concerned. Progress on stderr; the last line
on stdout is one JSON object; exit status 1 if a call failed or a step did not end as it should. About two
minutes on 2 cores.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import typer
from reverie_client import Client, ReverieError

from export.publishing import export_runs
from imaging import images
from registry import canary, manifest, publishing, table
from registry.repository import Repository
from registry.rollout import Rollout
from serving.style.table import StyleTable
from serving.triton.server import TritonServer
from synthesis.style.network import StyleNetworkConfig
from training.language_model import train as language_model
from training.language_model.model import LanguageModelConfig
from training.loop import Schedule
from training.photos import Photos
from training.style import train as style

PROJECT = Path(__file__).resolve().parents[1]
_SENTENCES = ("this movie was good and the cast was great", "this movie was bad and the plot was dull", "a film to see")


class Load:
    """Clients that call without pause, each one endpoint; what was answered and what failed, by endpoint."""

    def __init__(self, address: str, calls: dict[str, Callable[[Client], Any]]):
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(address, *call)) for call in calls.items()]

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _call(self, address: str, name: str, call: Callable[[Client], Any]) -> None:
        with Client(address) as client:
            while not self._stop.is_set():
                try:
                    call(client)
                    self.answered[name] += 1
                except ReverieError as error:
                    self.failed.append(f"{name}: {error}")


def endpoints(text: bool) -> dict[str, Callable[[Client], Any]]:
    """One call of every endpoint that a new version touches."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    photo = images.encode(pixels[0], "png")
    raw: dict[str, np.ndarray] = {"image": pixels, **shipped_styles().inputs()[0]}
    calls: dict[str, Callable[[Client], Any]] = {
        "stylize": lambda c: c.stylize(photo),
        "style": lambda c: c.infer("style", raw),
    }
    if text:
        ids = {"token_ids": np.ones((1, 8), np.int32)}
        calls |= {
            "generate": lambda c: list(c.generate("this movie", max_tokens=8)),
            "score": lambda c: c.score("this movie was good"),
            "language_model": lambda c: c.infer("language_model", ids),
        }
    return calls


def shipped_styles() -> StyleTable:
    """The styles that are served: a network of others could not be a canary beside theirs."""
    return StyleTable.read(shipped_version())


def shipped_version() -> Path:
    """The newest style network."""
    shipped = Repository(PROJECT / "model_repository")
    return shipped.folder("style", shipped.versions("style")[-1])


def train_style(folder: Path, photos: Path, seed: int) -> Path:
    """A few steps of a style network whose vectors are as long as the shipped one's; returns the folder of runs."""
    keras.utils.set_random_seed(seed)
    shape = manifest.read(shipped_version()).measured["network"]
    network = StyleNetworkConfig(shipped_styles().names, **shape)
    config = style.StyleTraining(network, steps=2, batch_size=2, size=32, style_size=48, features="compact")
    painting = next(iter(Photos.of(photos).paths))
    paintings = dict.fromkeys(network.styles, painting)
    style.train(config, paintings, Photos.of(photos), folder / "style" / str(seed), Schedule(2))
    return folder


def train_language_model(folder: Path, texts: Path) -> Path:
    """A few steps of a small language model; returns the folder of runs."""
    config = language_model.LanguageModelTraining(
        LanguageModelConfig(64, 12, 16, 32, 2), steps=4, batch_size=8, temperatures=(1.0,), sample_words=4
    )
    schedule = Schedule(4, 2, 4, 4, 4)
    language_model.train(config, texts, folder / "cache", folder / "language_model" / "new", schedule)
    return folder


def make_data(folder: Path) -> tuple[Path, Path]:
    """Photographs and texts to train on, generated."""
    photos, texts, rng = folder / "photos", folder / "texts", np.random.default_rng(1)
    photos.mkdir()
    texts.mkdir()
    for i in range(12):
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        (photos / f"{i}.png").write_bytes(images.encode(images.resize(coarse, 72, 96)))
    for i in range(120):
        (texts / f"{i}.txt").write_text(". ".join(rng.permutation(_SENTENCES).tolist() * 3))
    return photos, texts


class Steps:
    """The steps taken and their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, act: Callable[[], Any]) -> Any:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        done = act()
        self.seconds[name] = round(time.monotonic() - began, 2)
        return done


def copy_models(repository: Path, text: bool) -> None:
    """Copy the shipped models that are served."""
    for name in ("style", "stylize", *(("language_model", "generate", "score") if text else ())):
        shutil.copytree(PROJECT / "model_repository" / name, repository / name)


def check(folder: Path, text: bool) -> dict[str, Any]:
    """Run every step under load in `folder`; returns what the JSON line says."""
    repository = folder / "model_repository"
    copy_models(repository, text)
    photos, texts = make_data(folder)
    steps = Steps()
    with TritonServer(repository, log=folder / "triton.log") as server, Client(server.address.grpc) as client:
        address = server.address.grpc
        model = Rollout("style", Repository(repository), client, drain_seconds=1.0)
        load = Load(address, endpoints(text))
        with load.running():
            runs = steps("train style", lambda: train_style(folder / "runs", photos, 1))
            if text:
                steps("train language model", lambda: train_language_model(runs, texts))
            published = steps("export and publish", lambda: list(export_runs(None, None, runs, repository, address)))
            steps("train style again", lambda: train_style(runs, photos, 2))
            (second,) = steps(
                "export under a label",
                lambda: list(export_runs("style", None, runs, repository, address, "museum")),
            )
            # What it looks like does not matter here; that it is decided and done does.
            limits = canary.CanaryLimits(p95=1000.0, quality_metric=1000.0, requests=5)
            verdict = steps("canary", lambda: canary.run(model, second.version, 30, 8, server.address.metrics, limits))
            back = steps("rollback", lambda: publishing.rollback(model))
            steps("afterwards", lambda: time.sleep(2))
        expected = published[-1].version, True, published[-1].version
        found = back, verdict.promoted, model.labels.stable
        return {
            "passed": not load.failed and found == expected and not any(f for *_, f in table.verify(repository)),
            "calls": dict(load.answered),
            "failed_calls": len(load.failed),
            "failures": load.failed[:5],
            "canary": list(verdict.reasons),
            "canary_requests": verdict.canary.requests,
            "stable_requests": verdict.stable.requests,
            "versions": {p.exported.model: p.version for p in published},
            "seconds": steps.seconds,
        }


def main(no_text: Annotated[bool, typer.Option("--no-text", help="Only the style network.")] = False) -> None:
    """Print the result as JSON; exit status 1 if anything failed."""
    keras.config.set_dtype_policy("float32")
    with tempfile.TemporaryDirectory(prefix="reverie-export-check-") as folder:
        result = check(Path(folder), not no_text)
    print(json.dumps(result))
    raise typer.Exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    typer.run(main)
