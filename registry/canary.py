"""A canary: a share of the traffic goes to a new version, and the server's own numbers decide about it.

Errors and latency come from the server's metrics, version by version, so every client counts. The task's own
measure is taken on the same inputs for both where the model allows it: perplexity of a language model on
text that was recorded with the stable version, or with the canary; of a style network what its training measured on
held-out photographs. Both versions also answer the recorded inputs of both, and are compared (`registry.answers`).
What cannot be judged is not promoted, but for what falls on a version by chance: a few slow calls, refusals and callers'
mistakes (`registry.canary_chance`). The verdict says in words what was compared on what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from reverie_client import ReverieError
from reverie_client.labels import CANARY, STABLE

from registry import answers, canary_chance, golden, quality
from registry.canary_metrics import CanaryMetrics, watch
from registry.history import History
from registry.quality import QualityBasis
from registry.quality_metric import QualityMetric
from registry.rollout import Rollout, SwitchError
from reverie import outputs
from serving.style.table import StyleTable


@dataclass(frozen=True)
class CanaryLimits:
    """What a canary may cost.

    Attributes:
        errors: its failed share may be higher by this much, or more where chance explains it.
        p95: its 95th percentile may be this many times the stable version's, or more where chance explains it.
        quality_metric: likewise the task's metric, of which less is better.
        requests: fewer than this prove nothing, and the stable version stays.
    """

    errors: float = 0.01
    p95: float = 1.25
    quality_metric: float = 1.02
    requests: int = 20

    def are_exceeded(self, stable: CanaryMetrics, canary: CanaryMetrics) -> bool:
        """Whether the canary fails so often that there is no need to watch on."""
        return canary.error_rate > stable.error_rate + self.errors and canary_chance.failures_are_certain(
            stable, canary
        )


@dataclass(frozen=True)
class Verdict:
    """What became of a canary, and why.

    Attributes:
        compared: what was compared on what, a sentence each.
    """

    model: str
    promoted: bool
    reasons: tuple[str, ...]
    stable: CanaryMetrics
    canary: CanaryMetrics
    percent: float
    seconds: float
    compared: tuple[str, ...] = ()

    def textfile(self) -> str:
        """The verdict in Prometheus' text format, for node_exporter's textfile collector."""
        lines = [
            f'reverie_canary_promoted{{model="{self.model}",version="{self.canary.version}"}} {int(self.promoted)}'
        ]
        for label, seen in ((STABLE, self.stable), (CANARY, self.canary)):
            names = f'{{model="{self.model}",label="{label}",version="{seen.version}"}}'
            lines += [
                f"reverie_canary_requests{names} {seen.requests}",
                f"reverie_canary_failures{names} {seen.failures}",
            ]
            if seen.p95_ms is not None:
                lines.append(f"reverie_canary_p95_milliseconds{names} {seen.p95_ms:g}")
            if seen.quality is not None:
                lines.append(f"reverie_canary_measure{names} {seen.quality:g}")
        return "\n".join(lines) + "\n"


def run(
    model: Rollout,
    version: int,
    percent: float,
    seconds: float,
    metrics: str,
    limits: CanaryLimits = CanaryLimits(),
    on_sample: Callable[[CanaryMetrics, CanaryMetrics], None] | None = None,
    quality_metric: QualityMetric = QualityMetric.stable,
) -> Verdict:
    """Send `percent` of the traffic to `version` for `seconds`, then promote it or send none there.

    It ends at once when the canary's errors pass the limit.

    Args:
        metrics: URL of the server's metrics.
        quality_metric: whose rows both are measured on, or that they are not.

    Raises:
        SwitchError: no server, the version does not serve, or the model has no such metric; nothing changed.
    """
    if model.client is None:
        raise SwitchError("a canary needs a server that answers; give its --address")
    stable = model.labels.stable
    if stable is None or stable == version:
        raise SwitchError(f"{model.name} version {version} is the stable version already")
    if not 0 < percent <= 100:
        raise SwitchError(f"percent: {percent:g}; accepted: above 0, at most 100")
    quality.check_metric(model, quality_metric)
    with model.repository.lock():
        model.switch(model.labels.with_split(version, percent))
    try:
        watched = watch(model.name, (stable, version), seconds, metrics, limits.are_exceeded, on_sample)
        basis = quality.basis_of(model, stable, version, quality_metric)
        kept, tried = (replace(o, quality=quality.measured(model, o.version, basis)) for o in watched)
        reasons = judge(kept, tried, limits, basis.name if basis else None) + compare_answers(model, stable, version)
        compared = describe(model, kept, tried, limits, basis)
        told = tuple(reasons) or ("within all limits",)
        verdict = Verdict(model.name, not reasons, told, kept, tried, percent, seconds, compared)
    except BaseException:
        _end(model, version, promote=False)
        raise
    _end(model, version, promote=verdict.promoted)
    History(model.repository.path).record(event="canary", **_plain(verdict))
    return verdict


def judge(
    stable: CanaryMetrics, canary: CanaryMetrics, limits: CanaryLimits, metric: str | None = "measure"
) -> list[str]:
    """Why the canary must not be promoted; nothing if it may.

    Args:
        metric: what the quality metric is; None where it does not count.
    """
    reasons = []
    if canary.requests < limits.requests:
        reasons.append(f"{canary.requests} requests reached it; at least {limits.requests} are needed")
    is_higher = canary.error_rate > stable.error_rate + limits.errors
    if is_higher and not canary_chance.failures_may_be_chance(stable, canary):
        reasons.append(
            f"{canary.error_rate:.1%} of its requests failed, of the stable version's {stable.error_rate:.1%}"
        )
    p95 = _exceeds("p95 in ms", stable.p95_ms, canary.p95_ms, limits.p95)
    if (
        p95
        and _are_numbers(stable.p95_ms, canary.p95_ms)
        and canary_chance.slowness_may_be_chance(stable, canary, limits.p95)
    ):
        p95 = ""
    worse = _exceeds(metric, stable.quality, canary.quality, limits.quality_metric) if metric else ""
    return [*reasons, *filter(None, (p95, worse))]


def _are_numbers(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def describe(
    model: Rollout, stable: CanaryMetrics, canary: CanaryMetrics, limits: CanaryLimits, basis: QualityBasis | None
) -> tuple[str, ...]:
    """What was compared on what, a sentence each."""
    calls = (
        f"failed calls: of {canary.requests} that reached version {canary.version}, and of {stable.requests} that reached "
        f"the stable version {stable.version}"
    )
    measured = f"measure: {basis.description}" if basis else "measure: none, as was asked; quality was not compared"
    answered = (
        f"answers: both versions' to the inputs recorded with {' and with '.join(_recorded(model, stable, canary))}"
    )
    if model.name == "style":
        answered += ", and to a test picture in every style"
    return calls, describe_p95(stable, canary, limits), measured, answered


def describe_p95(stable: CanaryMetrics, canary: CanaryMetrics, limits: CanaryLimits) -> str:
    """What p95 is of, and what counts."""
    told = f"p95: of {canary.requests} calls and of {stable.requests}, by the server's own clock"
    if not (canary.requests and stable.requests):
        return f"{told}; without calls of both there is nothing to compare"
    if not (stable.times and canary.times and stable.p95_ms):
        return told
    slow = canary.slower_than(limits.p95 * stable.p95_ms), stable.slower_than(limits.p95 * stable.p95_ms)
    return (
        f"{told}; {slow[0]} and {slow[1]} of them took longer than {limits.p95:g} times the stable version's; only more than "
        "chance explains counts (Fisher's exact test)"
    )


def _recorded(model: Rollout, stable: CanaryMetrics, canary: CanaryMetrics) -> list[str]:
    seen = ((f"version {o.version}", model.repository.folder(model.name, o.version)) for o in (stable, canary))
    return [name for name, folder in seen if golden.read(folder)] or ["neither"]


def _exceeds(unit: str, stable: float | None, canary: float | None, limit: float) -> str:
    """Why a number does not keep within `limit` times the stable version's; empty if it does."""
    for whose, value in (("its", canary), ("the stable version's", stable)):
        if value is None or not math.isfinite(value):
            return f"{whose} {unit} is {'unknown' if value is None else value}; accepted: a number for both versions"
    assert stable is not None
    assert canary is not None
    if canary <= stable * limit:
        return ""
    return f"its {unit} is {canary:.4g}, the stable version's {stable:.4g}; accepted: {limit:g} times that"


def compare_answers(model: Rollout, stable: int, version: int) -> list[str]:
    """Why the answers of `version` cannot take the place of those of `stable`; nothing if they can."""
    questions, found = list(_questions(model, stable, version)), list[str]()
    if not questions:
        return ["neither version has recorded inputs to compare its answers on"]
    for inputs in questions:
        try:
            both = [model.infer(v, asked) for v, asked in zip((stable, version), inputs, strict=True)]
        except ReverieError as error:
            found.append(f"recorded inputs were not answered: {error.message.partition(chr(10))[0]}")
        else:
            found += answers.faults(inputs[0], *both)
    return list(dict.fromkeys(found))


Question = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""The inputs for the stable version, and for the other, to which a style's vector is another one."""


def _questions(model: Rollout, stable: int, version: int) -> Iterator[Question]:
    """What was recorded of both versions; of a model of pictures also one that shows something, in every style."""
    folders = [model.repository.folder(model.name, v) for v in (stable, version)]
    networks = [model.description(v).facts.get("network") for v in (stable, version)]
    for folder in folders if networks[0] == networks[1] else ():
        if recorded := golden.read(folder):
            yield recorded.inputs, recorded.inputs
    if model.name == "style":
        picture = {"image": answers.sample_picture()}
        for ours, theirs in _same_styles(*map(StyleTable.read, folders)):
            yield {**picture, **ours}, {**picture, **theirs}


def _same_styles(stable: StyleTable, other: StyleTable) -> Iterator[Question]:
    """Each style that both versions have."""
    theirs = dict(zip(other.names, other.inputs(), strict=True))
    for name, inputs in zip(stable.names, stable.inputs(), strict=True):
        if name in theirs:
            yield inputs, theirs[name]


def _end(model: Rollout, version: int, promote: bool) -> None:
    with model.repository.lock():
        labels = model.labels
        model.switch(labels.with_label(STABLE, version) if promote else labels.without_label(CANARY))


def _plain(verdict: Verdict) -> dict[str, Any]:
    """As a line of the history, whose key for the quality metric is `measure`."""
    plain = {k: v for k, v in asdict(verdict).items() if v is not None}
    for side in (plain["stable"], plain["canary"]):
        side["measure"] = side.pop("quality")
        side.pop("times")
    return plain


def write_textfile(verdict: Verdict, path: Path) -> None:
    """Write `Verdict.textfile` whole: a collector that reads meanwhile sees the old or the new one."""
    outputs.write(path, verdict.textfile())
