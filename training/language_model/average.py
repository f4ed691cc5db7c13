"""The mean of several runs' weights as a run: `reverie train average`.

Runs that went on from one another lie in one valley of the loss, and their mean is often better than each
(Izmailov et al. 2018; Wortsman et al. 2022, "model soups").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from keras import ops

from training import loop
from training.language_model import reviews
from training.language_model.train import HELD_OUT_FILE, KIND, VALIDATION_ROWS, evenly_spaced, load, validation_figures
from training.runs import Run, RunError


def average(runs: Sequence[Run], source: Path, cache: Path, path: Path | None) -> Run:
    """Return a finished run with the mean of the weights of `runs`.

    Args:
        runs: at least two, with the same sizes and the same tokenizer.
        source, cache: texts for validation; see `Reviews.prepare`.
        path: the run's folder; see `Run.create`.

    Raises:
        RunError: there are fewer than two, or they differ.
    """
    if len(runs) < 2:
        raise RunError(f"{len(runs)} run given; accepted: at least 2")
    loaded = [load(run) for run in runs]
    model, tokenizer = loaded[0]
    pieces = [[t.token_bytes(i) for i in range(len(t))] for _, t in loaded]
    for run, (other, _), same in zip(runs, loaded, pieces, strict=True):
        if other.config != model.config or same != pieces[0]:
            raise RunError(f"{run.path} has other sizes or another tokenizer than {runs[0].path}; nothing was averaged")
    weights = [[ops.convert_to_numpy(v) for v in other.variables] for other, _ in loaded]
    loop.assign(model.variables, [np.mean(values, axis=0) for values in zip(*weights, strict=True)])
    padded = not tokenizer.begin
    data = reviews.Reviews.prepare(
        source,
        "words" if padded else "byte_pairs",
        len(tokenizer),
        model.config.positions,
        cache,
        tokenizer,
    )
    made = Run.create(KIND, runs[0].config | {"average_of": [run.path.name for run in runs]}, path)
    tokenizer.save(made.path)
    np.save(made.path / HELD_OUT_FILE, evenly_spaced(data.validation, VALIDATION_ROWS))
    model.save_weights(made.weights)
    figures = validation_figures(model, tokenizer, data.validation, data.padded)
    made.finish({f"validation_{name}": value for name, value in figures.items()})
    return made
