"""`reverie eval served`: a published language model on the test reviews, measured through the files that are served.

It lives here because it joins `serving`, which runs the files, and `training`, which knows the measurements.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer


def eval_served(
    version: Annotated[Path | None, typer.Option(help="Folder of the version. Default: the newest one.")] = None,
    repository: Annotated[Path, typer.Option(help="Where models are published.")] = Path("model_repository"),
    data: Annotated[
        Path | None,
        typer.Option(help="aclImdb archive, its folder, or a folder of .txt files. Default: download IMDB."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the engine that writes the samples.")] = "int8",
    every_review: Annotated[bool, typer.Option("--all", help="Measure every test review: slow.")] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of the reviews and of the samples.")] = 0,
) -> None:
    """Measure a published language model on the held-out test reviews."""
    from registry.repository import Repository
    from training.language_model import reviews
    from training.language_model.evaluate import evaluate

    if version is None:
        versions = Repository(repository).versions("language_model")
        if not versions:
            raise typer.BadParameter(f"no language_model in {repository}", param_hint="--version")
        version = repository / "language_model" / str(max(versions))
    source = data or reviews.download()
    texts = list(reviews.read_reviews(source, "test"))
    with _Served(version, precision) as served:
        figures = evaluate(served.scored(), texts, seed, every_review, reviews.prompt_for(source))
    typer.echo(json.dumps({"version": str(version)} | figures))


class _Served:
    """The scoring graph and a text engine on one version's files."""

    def __init__(self, folder: Path, precision: str):
        from reverie.onnx_sessions import open_session
        from serving.text.pool import EnginePool

        self._scoring = open_session(folder / "model.onnx")
        self._engine = EnginePool(folder, precision)

    def __enter__(self) -> _Served:
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.close()

    def scored(self):
        """The version as `training.language_model.evaluate` sees it."""
        from training.language_model.evaluate import Scored

        return Scored(self._engine.tokenizer, self._engine.positions, self._token_losses, self._continue_prompt)

    def _token_losses(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The scoring graph gives the probability of each id but the first; what is not a target counts 0."""
        ids = np.zeros((inputs.shape[0], inputs.shape[1] + 1), np.int32)
        ids[:, :-1] = inputs
        ids[:, 1:] = np.where(targets >= 0, targets, ids[:, 1:])
        logprobs = self._scoring.run(["token_logprobs"], {"token_ids": ids})[0]
        return np.where(targets >= 0, -logprobs, 0.0)

    def _continue_prompt(
        self, prompt: str, tokens: int, temperatures: Sequence[float], seeds: Sequence[int]
    ) -> list[str]:
        from serving.text.parameters import GenerateParameters
        from serving.text.request import Collector, joined

        collectors = [Collector() for _ in seeds]
        for collector, temperature, seed in zip(collectors, temperatures, seeds, strict=True):
            parameters = GenerateParameters(max_tokens=tokens, temperature=temperature, seed=seed, echo=True)
            self._engine.submit(prompt, parameters, collector)
        return [joined(collector.deltas()) for collector in collectors]
