"""The quality that a canary is compared by, of both versions on the same rows; less is better.

Perplexity of a language model on text that was recorded with one of the two versions; of a style network the loss that its
training measured on held-out photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from reverie_client import ReverieError

from registry import golden, manifest
from registry.quality_metric import QualityMetric
from registry.rollout import Rollout, SwitchError

_TOKENIZERS = ("tokenizer.json", "vocabulary.txt")


@dataclass(frozen=True)
class QualityBasis:
    """What both versions are measured on.

    Attributes:
        name: of the metric, in a reason.
        description: of the rows, in words.
        losses: measured before, by version; or else
        inputs: what is asked now. With neither the metric is unknown.
    """

    name: str
    description: str
    losses: dict[int, float] | None = None
    inputs: dict[str, np.ndarray] | None = None


def check_metric(model: Rollout, metric: QualityMetric) -> None:
    """Raise SwitchError unless the model can be measured so."""
    if model.name != "language_model" and metric is QualityMetric.canary:
        raise SwitchError(
            f"quality: {metric.value!r} is not accepted for {model.name}, which has the loss of each version's own training "
            f"only; accepted: {QualityMetric.stable.value}, {QualityMetric.none.value}"
        )


def basis_of(model: Rollout, stable: int, canary: int, metric: QualityMetric) -> QualityBasis | None:
    """What the two versions of `model` can be compared on; None where `metric` asks for no comparison."""
    if metric is QualityMetric.none:
        return None
    if model.name != "language_model":
        return _training_losses(model, stable, canary)
    whose = stable if metric is QualityMetric.stable else canary
    recorded = golden.read(model.repository.folder(model.name, whose))
    named = f"{metric.value} version {whose}"
    if recorded is None:
        return QualityBasis("measure", f"unknown: nothing was recorded with the {named}; 'none' leaves it out")
    if not _same_tokenizer(model, stable, canary):
        return QualityBasis(
            "measure (perplexity; the two versions have different tokenizers, so their tokens do not compare; "
            "'none' leaves it out)",
            "unknown: the two versions have different tokenizers, so perplexities a token do not compare",
        )
    rows, tokens = recorded.inputs["token_ids"].shape
    what = f"perplexity on {rows} held-out rows of {tokens} tokens that were recorded with the {named} at its export"
    others = [m.value for m in QualityMetric if m is not metric]
    return QualityBasis(
        f"measure ({what}; '{others[0]}' or '{others[1]}' may be chosen instead)", what, inputs=recorded.inputs
    )


def _same_tokenizer(model: Rollout, *versions: int) -> bool:
    folders = [model.repository.folder(model.name, v) for v in versions]
    files = [{name: (f / name).read_bytes() for name in _TOKENIZERS if (f / name).exists()} for f in folders]
    return files[0] == files[1]


def _training_losses(model: Rollout, stable: int, canary: int) -> QualityBasis:
    """Of a network that makes pictures."""
    what = "held-out loss, which each version's own training measured on its own photographs"
    versions = {v: manifest.read(model.repository.folder(model.name, v)) for v in (stable, canary)}
    if versions[stable].configuration != versions[canary].configuration:
        return QualityBasis(
            "measure (the versions have different styles, so their losses do not compare; 'none' leaves it out)",
            "unknown: the versions have different styles, so the losses of their trainings do not compare",
        )
    found = {v: m.result.get("held_out_loss") for v, m in versions.items()}
    if None in found.values():
        return QualityBasis("measure", f"unknown: {what}, is in the manifest of not both; 'none' leaves it out")
    return QualityBasis(
        f"measure ({what})", what, losses={v: float(loss) for v, loss in found.items() if loss is not None}
    )


def measured(model: Rollout, version: int, basis: QualityBasis | None) -> float | None:
    """The quality metric of a version; less is better. None where there is none that compares."""
    if basis is None or basis.losses is not None:
        return basis.losses[version] if basis and basis.losses else None
    try:
        return _perplexity(model, version, basis.inputs) if basis.inputs else None
    except ReverieError:
        return None  # `registry.canary.compare_answers` says why.


def _perplexity(model: Rollout, version: int, inputs: dict[str, np.ndarray]) -> float:
    logprobs = model.infer(version, inputs)["token_logprobs"]
    return float(np.exp(-logprobs.astype(np.float64).mean()))
