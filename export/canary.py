"""A canary: a share of the traffic goes to a new version, and the server's own numbers decide about it.

Errors and latency come from Triton's metrics, version by version, so every client counts. The task's own
measure is taken on the same inputs for both where the model allows it: perplexity of a language model on
recorded text; of a style network what its training measured on held-out photographs. Both versions also answer the
recorded inputs of both, and are compared (`export.answers`). What cannot be judged is not promoted.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from export import answers, manifest, recording
from export.switching import Model, SwitchError
from serving import proxies
from serving.client import ReverieError
from serving.labels import CANARY, STABLE
from synthesis import outputs

_FAILURES = ("BACKEND", "OTHER", "REJECTED")
"""Reasons that count; CANCELED is the caller's."""


@dataclass(frozen=True)
class Limits:
    """What a canary may cost.

    Attributes:
        errors: its failed share may be higher by this much.
        p95: its 95th percentile may be this many times the stable version's.
        measure: likewise the task's measure, of which less is better.
        requests: fewer than this prove nothing, and the stable version stays.
    """

    errors: float = 0.01
    p95: float = 1.25
    measure: float = 1.02
    requests: int = 20


@dataclass(frozen=True)
class Observed:
    """What a version did while it was watched; `p95_ms` and `measure` None where unknown."""

    version: int
    requests: int = 0
    failures: int = 0
    p95_ms: float | None = None
    measure: float | None = None

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a canary, and why."""

    model: str
    promoted: bool
    reasons: tuple[str, ...]
    stable: Observed
    canary: Observed
    percent: float
    seconds: float

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
            if seen.measure is not None:
                lines.append(f"reverie_canary_measure{names} {seen.measure:g}")
        return "\n".join(lines) + "\n"


def run(
    model: Model,
    version: int,
    percent: float,
    seconds: float,
    metrics: str,
    limits: Limits = Limits(),
    on_sample: Callable[[Observed, Observed], None] | None = None,
) -> Verdict:
    """Send `percent` of the traffic to `version` for `seconds`, then promote it or send none there.

    It ends at once when the canary's errors pass the limit.

    Args:
        metrics: URL of the server's metrics.

    Raises:
        SwitchError: no server, or the version does not serve; nothing changed.
    """
    if model.client is None:
        raise SwitchError("a canary needs a server that answers; give its --address")
    stable = model.labels.stable
    if stable is None or stable == version:
        raise SwitchError(f"{model.name} version {version} is the stable version already")
    if not 0 < percent <= 100:
        raise SwitchError(f"percent: {percent:g}; accepted: above 0, at most 100")
    with model.repository.lock():
        model.switch(model.labels.splitting(version, percent))
    try:
        seen = _watch(model, stable, version, seconds, metrics, limits, on_sample)
        seen = tuple(replace(o, measure=_measure(model, o.version, stable)) for o in seen)  # type: ignore[assignment]
        reasons = [*judge(*seen, limits), *compare_answers(model, stable, version)]
        verdict = Verdict(model.name, not reasons, tuple(reasons) or ("within all limits",), *seen, percent, seconds)
    except BaseException:
        _end(model, version, promote=False)
        raise
    _end(model, version, promote=verdict.promoted)
    model.repository.record(event="canary", **_plain(verdict))
    return verdict


def judge(stable: Observed, canary: Observed, limits: Limits) -> list[str]:
    """Why the canary must not be promoted; nothing if it may."""
    reasons = []
    if canary.requests < limits.requests:
        reasons.append(f"{canary.requests} requests reached it; at least {limits.requests} are needed")
    if canary.error_rate > stable.error_rate + limits.errors:
        reasons.append(
            f"{canary.error_rate:.1%} of its requests failed, of the stable version's {stable.error_rate:.1%}"
        )
    for name, unit, limit in (("p95_ms", "p95 in ms", limits.p95), ("measure", "measure", limits.measure)):
        if reason := _exceeds(unit, getattr(stable, name), getattr(canary, name), limit):
            reasons.append(reason)
    return reasons


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


def compare_answers(model: Model, stable: int, version: int) -> list[str]:
    """Why the answers of `version` cannot take the place of those of `stable`; nothing if they can."""
    questions, found = list(_questions(model, stable, version)), list[str]()
    if not questions:
        return ["neither version has recorded inputs to compare its answers on"]
    for inputs in questions:
        try:
            both = [_answers(model, v, inputs) for v in (stable, version)]
        except ReverieError as error:
            found.append(f"recorded inputs were not answered: {error.message.partition(chr(10))[0]}")
        else:
            found += answers.faults(inputs, *both)
    return list(dict.fromkeys(found))


def _questions(model: Model, stable: int, version: int) -> Iterator[dict[str, np.ndarray]]:
    """What was recorded of both versions; of a model of pictures also one that shows something, in every style."""
    for folder in (model.repository.folder(model.name, v) for v in (stable, version)):
        if recorded := recording.read(folder):
            yield recorded.inputs
    if model.name == "style":
        styles = np.eye(len(model.description(stable).facts["styles"]), dtype=np.float32)
        for weights in styles:
            yield {"image": answers.sample_picture(), "style_weights": weights[None]}


def _answers(model: Model, version: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert model.client is not None
    return model.client.infer(model.name, inputs, version=str(version)).outputs


def observe(text: str, model: str, version: int) -> Observed:
    """One version's counters and 95th percentile in Triton's metrics."""
    values: dict[tuple[str, str], float] = {}
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if found.get("model") == model and found.get("version") == str(version):
            values[name, found.get("reason") or found.get("quantile") or ""] = float(value)
    failures = int(sum(values.get(("nv_inference_request_failure", reason), 0) for reason in _FAILURES))
    p95 = values.get(("nv_inference_request_summary_us", "0.95"), math.nan) / 1000
    successes = int(values.get(("nv_inference_request_success", ""), 0))
    return Observed(version, successes + failures, failures, None if math.isnan(p95) else p95)


def _watch(
    model: Model,
    stable: int,
    canary: int,
    seconds: float,
    metrics: str,
    limits: Limits,
    on_sample: Callable[[Observed, Observed], None] | None,
) -> tuple[Observed, Observed]:
    pause = min(10.0, max(0.2, seconds / 20))
    first = [_fetch(metrics, model.name, v) for v in (stable, canary)]
    latencies: list[list[float]] = [[], []]
    end = time.monotonic() + seconds
    while True:
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        seen = [_since(_fetch(metrics, model.name, o.version), o) for o in first]
        for known, one in zip(latencies, seen, strict=True):
            known += [] if one.p95_ms is None else [one.p95_ms]
        result = tuple(
            replace(o, p95_ms=statistics.median(p) if p else None) for o, p in zip(seen, latencies, strict=True)
        )
        if on_sample:
            on_sample(*result)
        failing = result[1].requests >= limits.requests and result[1].error_rate > result[0].error_rate + limits.errors
        if failing or time.monotonic() >= end:
            return result  # type: ignore[return-value]


def _since(now: Observed, before: Observed) -> Observed:
    """Counters start again at nothing where a version was reloaded."""
    if now.requests < before.requests:
        return now
    return replace(now, requests=now.requests - before.requests, failures=now.failures - before.failures)


def _fetch(metrics: str, model: str, version: int) -> Observed:
    try:
        with proxies.open_url(metrics, timeout=10) as answer:
            return observe(answer.read().decode(), model, version)
    except OSError as error:
        raise SwitchError(f"{metrics} does not answer ({error}); give the server's --metrics") from None


def _measure(model: Model, version: int, stable: int) -> float | None:
    """The task's measure; less is better. None where the model has none that compares."""
    if model.name == "language_model":
        recorded = recording.read(model.repository.folder(model.name, stable))
        try:
            return _perplexity(model, version, recorded.inputs) if recorded else None
        except ReverieError:
            return None  # `compare_answers` says why.
    folders = [model.repository.folder(model.name, v) for v in (version, stable)]
    ours, theirs = (manifest.read(folder) for folder in folders)
    if ours.configuration != theirs.configuration:
        return None
    loss = ours.result.get("held_out_loss")
    return None if loss is None else float(loss)


def _perplexity(model: Model, version: int, inputs: dict[str, np.ndarray]) -> float:
    logprobs = _answers(model, version, inputs)["token_logprobs"]
    return float(np.exp(-logprobs.astype(np.float64).mean()))


def _end(model: Model, version: int, promote: bool) -> None:
    with model.repository.lock():
        labels = model.labels
        model.switch(labels.naming(STABLE, version) if promote else labels.without(CANARY))


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {k: v for k, v in asdict(verdict).items() if v is not None}


def write_textfile(verdict: Verdict, path: Path) -> None:
    """Write `Verdict.textfile` whole: a collector that reads meanwhile sees the old or the new one."""
    outputs.write(path, verdict.textfile())
