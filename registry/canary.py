"""A canary: a share of the traffic goes to a new version, and the server's own numbers decide about it.

Errors and latency come from Triton's metrics, version by version, so every client counts. The task's own
measure is taken on the same inputs for both where the model allows it: perplexity of a language model on
text that was recorded with the stable version, or with the canary; of a style network what its training measured on
held-out photographs. Both versions also answer the recorded inputs of both, and are compared (`registry.answers`).
What cannot be judged is not promoted, but for p95: of few calls it says too little to refuse an equal version
(`registry.canary_latency`). The verdict says in words what was compared on what.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from reverie_client import ReverieError, proxies
from reverie_client.labels import CANARY, STABLE

from registry import answers, canary_latency, golden, manifest
from registry.quality_metric import Measure
from registry.rollout import Rollout, SwitchError
from reverie import outputs
from serving.triton.metrics import read_samples

_SUMMARY = "nv_inference_request_summary_us"
"""Quantiles of the calls of the last minute."""
_FAILURES = ("BACKEND", "OTHER", "REJECTED")
"""Reasons that count; CANCELED is the caller's."""


_TOKENIZERS = ("tokenizer.json", "vocabulary.txt")


@dataclass(frozen=True)
class Limits:
    """What a canary may cost.

    Attributes:
        errors: its failed share may be higher by this much.
        p95: its 95th percentile may be this many times the stable version's, or more where chance explains it.
        measure: likewise the task's measure, of which less is better.
        requests: fewer than this prove nothing, and the stable version stays.
    """

    errors: float = 0.01
    p95: float = 1.25
    measure: float = 1.02
    requests: int = 20


@dataclass(frozen=True)
class Observed:
    """What a version did while it was watched; `p95_ms`, `spread` and `measure` None where unknown.

    Attributes:
        spread: standard deviation of the logarithm of its calls' times.
    """

    version: int
    requests: int = 0
    failures: int = 0
    p95_ms: float | None = None
    measure: float | None = None
    spread: float | None = None

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a canary, and why.

    Attributes:
        compared: what was compared on what, a sentence each.
    """

    model: str
    promoted: bool
    reasons: tuple[str, ...]
    stable: Observed
    canary: Observed
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
            if seen.measure is not None:
                lines.append(f"reverie_canary_measure{names} {seen.measure:g}")
        return "\n".join(lines) + "\n"


def run(
    model: Rollout,
    version: int,
    percent: float,
    seconds: float,
    metrics: str,
    limits: Limits = Limits(),
    on_sample: Callable[[Observed, Observed], None] | None = None,
    measure: Measure = Measure.stable,
) -> Verdict:
    """Send `percent` of the traffic to `version` for `seconds`, then promote it or send none there.

    It ends at once when the canary's errors pass the limit.

    Args:
        metrics: URL of the server's metrics.
        measure: whose rows both are measured on, or that they are not.

    Raises:
        SwitchError: no server, the version does not serve, or the model has no such measure; nothing changed.
    """
    if model.client is None:
        raise SwitchError("a canary needs a server that answers; give its --address")
    stable = model.labels.stable
    if stable is None or stable == version:
        raise SwitchError(f"{model.name} version {version} is the stable version already")
    if not 0 < percent <= 100:
        raise SwitchError(f"percent: {percent:g}; accepted: above 0, at most 100")
    check_measure(model, measure)
    with model.repository.lock():
        model.switch(model.labels.splitting(version, percent))
    try:
        seen = _watch(model, stable, version, seconds, metrics, limits, on_sample)
        rows = _rows(model, stable, version, measure)
        seen = tuple(replace(o, measure=_measured(model, o.version, rows)) for o in seen)  # type: ignore[assignment]
        reasons = [*judge(*seen, limits, rows.name if rows else None), *compare_answers(model, stable, version)]
        compared = describe(model, *seen, limits, rows)
        told = tuple(reasons) or ("within all limits",)
        verdict = Verdict(model.name, not reasons, told, *seen, percent, seconds, compared)
    except BaseException:
        _end(model, version, promote=False)
        raise
    _end(model, version, promote=verdict.promoted)
    model.repository.record(event="canary", **_plain(verdict))
    return verdict


def check_measure(model: Rollout, measure: Measure) -> None:
    """Raise SwitchError unless the model can be measured so."""
    if model.name != "language_model" and measure is Measure.canary:
        raise SwitchError(
            f"measure: {measure.value!r} is not accepted for {model.name}, which has the loss of each version's own training "
            f"only; accepted: {Measure.stable.value}, {Measure.none.value}"
        )


def judge(stable: Observed, canary: Observed, limits: Limits, measure: str | None = "measure") -> list[str]:
    """Why the canary must not be promoted; nothing if it may.

    Args:
        measure: what the task's measure is; None where it does not count.
    """
    reasons = []
    if canary.requests < limits.requests:
        reasons.append(f"{canary.requests} requests reached it; at least {limits.requests} are needed")
    if canary.error_rate > stable.error_rate + limits.errors:
        reasons.append(
            f"{canary.error_rate:.1%} of its requests failed, of the stable version's {stable.error_rate:.1%}"
        )
    p95 = _exceeds("p95 in ms", stable.p95_ms, canary.p95_ms, max(limits.p95, _chance(stable, canary)), limits.p95)
    quality = _exceeds(measure, stable.measure, canary.measure, limits.measure) if measure else ""
    return [*reasons, *filter(None, (p95, quality))]


def _chance(stable: Observed, canary: Observed) -> float:
    """How many times the stable version's p95 that of an equal version may be by chance."""
    return canary_latency.chance_ratio(_spread(stable), stable.requests, canary.requests)


def _spread(stable: Observed) -> float:
    return canary_latency.TYPICAL_SPREAD if stable.spread is None else stable.spread


def describe(model: Rollout, stable: Observed, canary: Observed, limits: Limits, rows: _Rows | None) -> tuple[str, ...]:
    """What was compared on what, a sentence each."""
    calls = (
        f"failed calls: of {canary.requests} that reached version {canary.version}, and of {stable.requests} that reached "
        f"the stable version {stable.version}"
    )
    measured = f"measure: {rows.description}" if rows else "measure: none, as was asked; quality was not compared"
    answered = (
        f"answers: both versions' to the inputs recorded with {' and with '.join(_recorded(model, stable, canary))}"
    )
    if model.name == "style":
        answered += ", and to a test picture in every style"
    return calls, describe_p95(stable, canary, limits), measured, answered


def describe_p95(stable: Observed, canary: Observed, limits: Limits) -> str:
    """What p95 is of, whether it can show a canary that is slower than the limit, and if not how many calls would."""
    told = f"p95: of {canary.requests} calls and of {stable.requests}, by the server's own clock"
    chance = _chance(stable, canary)
    if chance <= limits.p95:
        return told
    if not (canary.requests and stable.requests):
        return f"{told}; without calls of both there is nothing to compare"
    share = stable.requests / canary.requests
    needed = canary_latency.calls_needed(_spread(stable), limits.p95, share)
    tells = "no number of calls tells" if needed is None else f"{needed} calls of the canary tell"
    return (
        f"{told}; so few differ by up to {chance:.3g} times by chance, so only more than that was held against it; "
        f"{tells} {limits.p95:g} times from chance"
    )


def _recorded(model: Rollout, stable: Observed, canary: Observed) -> list[str]:
    seen = ((f"version {o.version}", model.repository.folder(model.name, o.version)) for o in (stable, canary))
    return [name for name, folder in seen if golden.read(folder)] or ["neither"]


def _exceeds(unit: str, stable: float | None, canary: float | None, limit: float, promised: float | None = None) -> str:
    """Why a number does not keep within `limit` times the stable version's; empty if it does.

    Args:
        promised: the limit to name, where chance allows for more.
    """
    for whose, value in (("its", canary), ("the stable version's", stable)):
        if value is None or not math.isfinite(value):
            return f"{whose} {unit} is {'unknown' if value is None else value}; accepted: a number for both versions"
    assert stable is not None
    assert canary is not None
    if canary <= stable * limit:
        return ""
    return f"its {unit} is {canary:.4g}, the stable version's {stable:.4g}; accepted: {promised or limit:g} times that"


def compare_answers(model: Rollout, stable: int, version: int) -> list[str]:
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


def _questions(model: Rollout, stable: int, version: int) -> Iterator[dict[str, np.ndarray]]:
    """What was recorded of both versions; of a model of pictures also one that shows something, in every style."""
    for folder in (model.repository.folder(model.name, v) for v in (stable, version)):
        if recorded := golden.read(folder):
            yield recorded.inputs
    if model.name == "style":
        styles = np.eye(len(model.description(stable).facts["styles"]), dtype=np.float32)
        for weights in styles:
            yield {"image": answers.sample_picture(), "style_weights": weights[None]}


def _answers(model: Rollout, version: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert model.client is not None
    return model.client.infer(model.name, inputs, version=str(version)).outputs


def observe(text: str, model: str, version: int) -> Observed:
    """One version's counters and 95th percentile in Triton's metrics."""
    values: dict[tuple[str, str], float] = {}
    for sample in read_samples(text):
        found = sample.labels
        if found.get("model") == model and found.get("version") == str(version):
            values[sample.name, found.get("reason") or found.get("quantile") or ""] = sample.value
    quantiles = {q: values[_SUMMARY, str(q)] for q in (0.5, 0.9, 0.95, 0.99) if (_SUMMARY, str(q)) in values}
    failures = int(sum(values.get(("nv_inference_request_failure", reason), 0) for reason in _FAILURES))
    p95 = quantiles.get(0.95, math.nan) / 1000
    successes = int(values.get(("nv_inference_request_success", ""), 0))
    return Observed(
        version,
        successes + failures,
        failures,
        None if math.isnan(p95) else p95,
        spread=canary_latency.spread(quantiles),
    )


def _watch(
    model: Rollout,
    stable: int,
    canary: int,
    seconds: float,
    metrics: str,
    limits: Limits,
    on_sample: Callable[[Observed, Observed], None] | None,
) -> tuple[Observed, Observed]:
    pause = min(10.0, max(0.2, seconds / 20))
    first = [_fetch(metrics, model.name, v) for v in (stable, canary)]
    samples: list[list[Observed]] = [[], []]
    end = time.monotonic() + seconds
    while True:
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        seen = [_since(_fetch(metrics, model.name, o.version), o) for o in first]
        for known, one in zip(samples, seen, strict=True):
            known.append(one)
        result = tuple(
            replace(o, p95_ms=_median(s.p95_ms for s in known), spread=_median(s.spread for s in known))
            for o, known in zip(seen, samples, strict=True)
        )
        if on_sample:
            on_sample(*result)
        failing = result[1].requests >= limits.requests and result[1].error_rate > result[0].error_rate + limits.errors
        if failing or time.monotonic() >= end:
            return result  # type: ignore[return-value]


def _median(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def _since(now: Observed, before: Observed) -> Observed:
    """Counters start again at nothing where a version was reloaded."""
    if now.requests < before.requests:
        return now
    return replace(now, requests=now.requests - before.requests, failures=now.failures - before.failures)


def _fetch(metrics: str, model: str, version: int) -> Observed:
    try:
        with proxies.open_url(metrics, timeout=10) as answer:
            return observe(answer.read().decode(), model, version)
    except (OSError, ValueError) as error:
        raise SwitchError(f"{metrics} does not answer ({error}); give the server's --metrics") from None


@dataclass(frozen=True)
class _Rows:
    """What both versions are measured on.

    Attributes:
        name: of the measure, in a reason.
        description: of the rows, in words.
        losses: measured before, by version; or else
        inputs: what is asked now. With neither the measure is unknown.
    """

    name: str
    description: str
    losses: dict[int, float] | None = None
    inputs: dict[str, np.ndarray] | None = None


def _rows(model: Rollout, stable: int, canary: int, measure: Measure) -> _Rows | None:
    if measure is Measure.none:
        return None
    if model.name != "language_model":
        return _training_losses(model, stable, canary)
    whose = stable if measure is Measure.stable else canary
    recorded = golden.read(model.repository.folder(model.name, whose))
    named = f"{measure.value} version {whose}"
    if recorded is None:
        return _Rows("measure", f"unknown: nothing was recorded with the {named}; 'none' leaves it out")
    if not _same_tokenizer(model, stable, canary):
        return _Rows(
            "measure (perplexity; the two versions have different tokenizers, so their tokens do not compare; "
            "'none' leaves it out)",
            "unknown: the two versions have different tokenizers, so perplexities a token do not compare",
        )
    rows, tokens = recorded.inputs["token_ids"].shape
    what = f"perplexity on {rows} held-out rows of {tokens} tokens that were recorded with the {named} at its export"
    others = [m.value for m in Measure if m is not measure]
    return _Rows(
        f"measure ({what}; '{others[0]}' or '{others[1]}' may be chosen instead)", what, inputs=recorded.inputs
    )


def _same_tokenizer(model: Rollout, *versions: int) -> bool:
    folders = [model.repository.folder(model.name, v) for v in versions]
    files = [{name: (f / name).read_bytes() for name in _TOKENIZERS if (f / name).exists()} for f in folders]
    return files[0] == files[1]


def _training_losses(model: Rollout, stable: int, canary: int) -> _Rows:
    """Of a network that makes pictures."""
    what = "held-out loss, which each version's own training measured on its own photographs"
    versions = {v: manifest.read(model.repository.folder(model.name, v)) for v in (stable, canary)}
    if versions[stable].configuration != versions[canary].configuration:
        return _Rows(
            "measure (the versions have different styles, so their losses do not compare; 'none' leaves it out)",
            "unknown: the versions have different styles, so the losses of their trainings do not compare",
        )
    found = {v: m.result.get("held_out_loss") for v, m in versions.items()}
    if None in found.values():
        return _Rows("measure", f"unknown: {what}, is in the manifest of not both; 'none' leaves it out")
    return _Rows(f"measure ({what})", what, losses={v: float(loss) for v, loss in found.items() if loss is not None})


def _measured(model: Rollout, version: int, rows: _Rows | None) -> float | None:
    """The task's measure; less is better. None where there is none that compares."""
    if rows is None or rows.losses is not None:
        return rows.losses[version] if rows and rows.losses else None
    try:
        return _perplexity(model, version, rows.inputs) if rows.inputs else None
    except ReverieError:
        return None  # `compare_answers` says why.


def _perplexity(model: Rollout, version: int, inputs: dict[str, np.ndarray]) -> float:
    logprobs = _answers(model, version, inputs)["token_logprobs"]
    return float(np.exp(-logprobs.astype(np.float64).mean()))


def _end(model: Rollout, version: int, promote: bool) -> None:
    with model.repository.lock():
        labels = model.labels
        model.switch(labels.naming(STABLE, version) if promote else labels.without(CANARY))


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {k: v for k, v in asdict(verdict).items() if v is not None}


def write_textfile(verdict: Verdict, path: Path) -> None:
    """Write `Verdict.textfile` whole: a collector that reads meanwhile sees the old or the new one."""
    outputs.write(path, verdict.textfile())
