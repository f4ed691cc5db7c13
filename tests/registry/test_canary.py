"""What is promoted and what is not; `tests/serving/test_upgrade` shows it on a server."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from reverie_client import Inference, ReverieError
from typer.testing import CliRunner

from registry import canary, cli, configuration, golden, manifest, quality
from registry.answers import sample_picture
from registry.canary import CanaryLimits, Verdict, compare_answers, describe_p95, judge
from registry.canary_metrics import CanaryMetrics, observe
from registry.quality_metric import QualityMetric
from registry.repository import Repository
from registry.rollout import Rollout, SwitchError
from reverie.prometheus import Snapshot
from serving.style.table import StyleTable
from serving.telemetry import definitions
from tests.serving.shipped import TABLE
from tests.serving.style_graph import COLORS, NETWORK, write_version

PROJECT = Path(__file__).resolve().parents[2]

TRITON_METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="style",version="2"} 90
nv_inference_request_success{model="style",version="1"} 7
nv_inference_request_success{model="stylize",version="2"} 1000
nv_inference_request_failure{model="style",reason="BACKEND",version="2"} 6
nv_inference_request_failure{model="style",reason="REJECTED",version="2"} 4
nv_inference_request_failure{model="style",reason="CANCELED",version="2"} 50
nv_inference_request_summary_us{model="style",version="2",quantile="0.95"} 28471
nv_inference_request_summary_us{model="style",version="1",quantile="0.95"} Nan
"""


def test_a_version_of_triton_s_own_backends_is_read_from_triton_s_metrics():
    added = Snapshot.read(TRITON_METRICS)
    assert observe(added, "style", 2) == CanaryMetrics(2, requests=100, failures=10, p95_ms=28.471, broken=6)
    assert observe(added, "style", 1) == CanaryMetrics(1, requests=7)


def test_triton_s_quantiles_are_of_the_last_minute_and_not_of_what_was_added():
    now = Snapshot.read(TRITON_METRICS)
    assert observe(now.since(now), "style", 2, now).p95_ms == 28.471


OWN_METRICS = """\
# TYPE reverie_requests_total counter
reverie_requests_total{model="style",status="OK",version="2"} 90
reverie_requests_total{model="style",status="INTERNAL",version="2"} 6
reverie_requests_total{model="style",status="INVALID_ARGUMENT",version="2"} 3
reverie_requests_total{model="style",status="UNAVAILABLE",version="2"} 1
reverie_requests_total{model="style",status="CANCELLED",version="2"} 50
reverie_requests_total{model="stylize",status="OK",version="2"} 1000
# TYPE reverie_request_seconds histogram
reverie_request_seconds_bucket{le="0.01",model="style",version="2"} 0
reverie_request_seconds_bucket{le="0.02",model="style",version="2"} 90
reverie_request_seconds_bucket{le="+Inf",model="style",version="2"} 90
reverie_request_seconds_count{model="style",version="2"} 90
reverie_request_seconds_sum{model="style",version="2"} 1.2
"""


def test_our_own_metrics_come_first_for_triton_calls_a_python_model_s_errors_successes():
    seen = observe(Snapshot.read(TRITON_METRICS + OWN_METRICS), "style", 2)
    assert (seen.requests, seen.failures, seen.broken) == (100, 10, 6)
    assert seen.p95_ms == pytest.approx(19.5)


GOOD = CanaryMetrics(1, requests=1000, failures=2, p95_ms=50.0, quality=130.0)


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (CanaryMetrics(2, 100, 0, 55.0, 131.0), None),
        (CanaryMetrics(2, 100, 0, None, 130.0), "its p95 in ms is unknown"),
        (CanaryMetrics(2, 100, 0, 50.0, None), "its measure is unknown; accepted: a number for both versions"),
        (CanaryMetrics(2, 100, 0, 50.0, math.nan), "its measure is nan"),
        (CanaryMetrics(2, 100, 0, 50.0, math.inf), "its measure is inf"),
        (CanaryMetrics(2, 100, 0, 50.0, -math.inf), "its measure is -inf"),
        (CanaryMetrics(2, 100, 0, math.nan, 130.0), "its p95 in ms is nan"),
        (CanaryMetrics(2, 19, 0, 50.0, 130.0), "19 requests reached it; at least 20"),
        (CanaryMetrics(2, 100, 5, 50.0, 130.0), r"5\.0% of its requests failed, of the stable version's 0\.2%"),
        (CanaryMetrics(2, 100, 0, 63.0, 130.0), "p95 in ms is 63, the stable version's 50"),
        (CanaryMetrics(2, 100, 0, 50.0, 133.0), "measure is 133, the stable version's 130"),
    ],
)
def test_a_canary_is_promoted_within_the_limits_and_not_beyond(canary, reason):
    reasons = judge(GOOD, canary, CanaryLimits())
    assert bool(reasons) == bool(reason)
    if reason:
        assert re.search(reason, reasons[0])


@pytest.mark.parametrize(
    ("stable", "canary", "is_refused"),
    [
        ((0, 0), (1, 1), True),  # An error of its own never falls on it by chance,
        ((3, 3), (1, 1), False),  # unless the stable version has such too.
        ((0, 0), (1, 0), False),  # A refusal or a caller's mistake may.
        ((9, 0), (2, 0), False),
        ((9, 0), (5, 0), True),
        ((0, 0), (3, 0), True),
    ],
)
def test_failures_that_may_fall_on_a_version_by_chance_are_not_held_against_it(stable, canary, is_refused):
    """Of (failures, its own fault) each; the stable version had 900 calls and the canary 100, or 20."""
    for calls in (20, 100) if stable == (0, 0) or canary[0] == 2 else (100,):
        sides = (
            CanaryMetrics(v, n, f, 50.0, 1.0, broken=b) for v, n, (f, b) in ((1, 9 * calls, stable), (2, calls, canary))
        )
        assert bool(judge(*sides, CanaryLimits(errors=0.005))) == is_refused


def test_a_canary_that_fails_every_call_is_known_after_a_few():
    stable = CanaryMetrics(1, 40, 0)
    assert not CanaryLimits().are_exceeded(stable, CanaryMetrics(2, 1, 1, broken=1))
    assert CanaryLimits().are_exceeded(stable, CanaryMetrics(2, 4, 4, broken=4))
    assert not CanaryLimits().are_exceeded(CanaryMetrics(1, 40, 40), CanaryMetrics(2, 4, 4))


@pytest.mark.parametrize("name", ["p95_ms", "quality"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_canary_is_not_promoted_where_the_stable_version_cannot_be_measured(name, value):
    (reason,) = judge(replace(GOOD, **{name: value}), CanaryMetrics(2, 100, 0, 50.0, 130.0), CanaryLimits())
    assert reason.startswith("the stable version's ")


def watched(version: int, times_ms: np.ndarray) -> list[CanaryMetrics]:
    """What the metrics say of each row of times."""
    bounds = definitions.REQUEST_SECONDS_BOUNDS
    return [observe(_snapshot(version, row / 1000, bounds), "style", version) for row in times_ms]


def _snapshot(version: int, seconds: np.ndarray, bounds: tuple[float, ...]) -> Snapshot:
    labels = {("model", "style"), ("version", str(version))}
    counts = np.searchsorted(np.sort(seconds), [*bounds, math.inf], side="right").tolist()
    buckets = zip([*map(str, bounds), "+Inf"], counts, strict=True)
    values = {("reverie_request_seconds_bucket", frozenset(labels | {("le", le)})): n for le, n in buckets}
    return Snapshot(values | {("reverie_requests", frozenset(labels | {("status", "OK")})): len(seconds)})


def refused_share(
    calls: int, slower: float = 1.0, spread: float = 0.5, trials: int = 120, scale: float = 20.0
) -> float:
    """How many of so many canaries of `calls` calls beside nine times as many are refused; seeded."""
    rng = np.random.default_rng(30)
    stable, canaries = (rng.lognormal(np.log(scale), spread, (trials, n)) for n in (9 * calls, calls))
    pairs = zip(watched(1, stable), watched(2, canaries * slower), strict=True)
    judged = (judge(*(replace(seen, quality=1.0) for seen in pair), CanaryLimits()) for pair in pairs)
    return sum(map(bool, judged)) / trials


@pytest.mark.parametrize("spread", [0.02, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("calls", [20, 200])
def test_an_equal_version_is_seldom_refused_for_p95_however_few_calls_reach_it(calls, spread):
    assert refused_share(calls, spread=spread) <= 0.03


@pytest.mark.parametrize("scale", np.geomspace(8.0, 9.4, 5).round(2))
def test_nor_where_all_times_lie_about_the_bound_of_a_bucket(scale):
    """With a spread of 2 % as of a machine that does nothing else."""
    assert refused_share(20, spread=0.02, scale=scale, trials=40) == 0


def test_a_slower_version_is_refused_when_enough_calls_reach_it_and_a_much_slower_one_soon():
    assert refused_share(1000, slower=1.6) > 0.97
    assert refused_share(34, slower=5.0) > 0.99


def test_nor_for_a_few_calls_that_took_very_long_as_of_a_busy_machine():
    """One of twenty takes eight times as long, of either version."""
    rng = np.random.default_rng(31)
    refused = 0
    for _ in range(120):
        sides = [np.where(rng.random(n) < 0.05, 30.0, 4.0) * rng.lognormal(0, 0.05, n) for n in (60, 20)]
        (stable,), (canary,) = (watched(v, times[None]) for v, times in enumerate(sides, 1))
        refused += bool(judge(replace(stable, quality=1.0), replace(canary, quality=1.0), CanaryLimits()))
    assert refused <= 3


def test_what_p95_is_of_and_what_counts_is_said():
    rng = np.random.default_rng(32)
    ((stable,), (canary,)) = (watched(v, rng.lognormal(3, 0.5, (1, n))) for v, n in ((1, 306), (2, 34)))
    told = describe_p95(stable, canary, CanaryLimits())
    assert re.search(r"of 34 calls and of 306.*\d+ and \d+ of them took longer than 1\.25 times.*Fisher", told)
    assert "nothing to compare" in describe_p95(stable, CanaryMetrics(2), CanaryLimits())
    assert "nothing to compare" in describe_p95(CanaryMetrics(1), canary, CanaryLimits())


QUANTILES = (0.5, 0.9, 0.95, 0.99)


def test_the_spread_is_read_from_triton_s_quantiles():
    lines = [
        f'nv_inference_request_summary_us{{model="style",version="3",quantile="{q}"}} {1000 * np.exp(0.7 * z)}'
        for q, z in zip(QUANTILES, (0, 1.2816, 1.6449, 2.3263), strict=True)
    ]
    assert observe(Snapshot.read("\n".join(lines)), "style", 3).spread == pytest.approx(0.7, rel=1e-3)


class Runner:
    """A server's client that runs the graphs of a repository."""

    def __init__(self, repository: Repository):
        self.repository = repository

    def infer(self, model, inputs, version):
        graph = self.repository.folder(model, int(version)) / "model.onnx"
        try:
            return Inference(golden.run(graph, inputs), version)
        except Exception as error:
            raise ReverieError(grpc.StatusCode.INTERNAL, str(error)) from None


@pytest.fixture
def shipped(tmp_path) -> Rollout:
    """The shipped style network, with versions of a test's own beside it."""
    repository = Repository(shutil.copytree(PROJECT / "model_repository", tmp_path / "models"))
    return Rollout("style", repository, Runner(repository))


@pytest.mark.slow
def test_a_version_is_compared_with_the_stable_one_on_the_recorded_inputs_and_in_every_style(shipped):
    stable = shipped.repository.versions("style")[-1]
    assert compare_answers(shipped, stable, stable) == []
    for spoil, fault in {
        "all": "a picture of one color (luminance 0 of 255)",
        "third": "a picture of one color (luminance 0 of 255)",
        "fails": "recorded inputs were not answered",
    }.items():
        assert fault in compare_answers(shipped, stable, spoiled(shipped, spoil))[0]


def spoiled(model: Rollout, how: str) -> int:
    """A version that paints black in every style or in the third, and records that at export, or that fails."""
    stable = model.labels.stable
    version = model.repository.versions("style")[-1] + 1
    folder = shutil.copytree(model.repository.folder("style", stable), model.repository.folder("style", version))
    graph = onnx.load(folder / "model.onnx")
    for node in graph.graph.node:
        node.output[:] = ["painted" if name == "stylized" else name for name in node.output]
    count, numbers = TABLE.rows.shape
    # What gives 1 for the styles that are kept, and 0 for the others; a little more, since it is cut to a whole number.
    kept = np.linalg.pinv(TABLE.rows) @ {"all": np.zeros(count), "third": 1.001 * (np.arange(count) != 2)}.get(
        how, np.zeros(count)
    )
    kept = np.zeros(numbers + 2) if how == "fails" else kept
    graph.graph.initializer.append(numpy_helper.from_array(kept[:, None].astype(np.float32), "kept"))
    graph.graph.node.extend(
        [
            helper.make_node("MatMul", [TABLE.input, "kept"], ["keeps"]),
            helper.make_node("Cast", ["keeps"], ["keeps_bytes"], to=TensorProto.UINT8),
            helper.make_node("Unsqueeze", ["keeps_bytes", "axes"], ["factor"]),
            helper.make_node("Mul", ["painted", "factor"], ["stylized"]),
        ]
    )
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    onnx.save(graph, folder / "model.onnx")
    if how != "fails":
        golden.record(folder, model.description(stable), {})
    return version


def test_a_canary_of_another_network_is_compared_in_its_own_vectors_of_the_same_styles(tmp_path):
    """The other network takes colors a thousandth as large: in the stable version's vectors it would paint white."""
    for version, network in ((1, NETWORK), (2, "e" * 16)):
        folder = write_version(tmp_path / "style" / str(version), network)
        described = configuration.style([*COLORS], 3, network)
        golden.record(folder, described, {"image": sample_picture(), "style": np.full((1, 3), 30, np.float32)})
        manifest.describe(folder, "style", "tiny", {}, {}, {}, described.facts, revision=None).write(folder)
    graph = onnx.load(folder / "model.onnx")
    (taken,) = [node for node in graph.graph.node if list(node.input) == ["style"]]
    taken.CopyFrom(helper.make_node("MatMul", ["style", "thousands"], list(taken.output)))
    graph.graph.initializer.append(numpy_helper.from_array(np.full((3, 3), 1000, np.float32), "thousands"))
    onnx.save(graph, folder / "model.onnx")
    table = StyleTable.read(folder)
    replace(table, rows=table.rows / 1000).write(folder)
    repository = Repository(tmp_path)
    assert compare_answers(Rollout("style", repository, Runner(repository)), 1, 2) == []
    table.write(folder)
    faults = compare_answers(Rollout("style", repository, Runner(repository)), 1, 2)
    assert faults == ["stylized: a picture of one color (luminance 255 of 255)"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Rollout:
    """Two versions of the shipped language model; the second says of itself that other rows were recorded with it."""
    repository = Repository(tmp_path_factory.mktemp("texts"))
    for version in (1, 2):
        folder = repository.folder("language_model", version)
        folder.mkdir(parents=True)
        for name in ("model.onnx", "weights.bin", "tokenizer.json", "manifest.json"):
            (folder / name).symlink_to(PROJECT / "model_repository" / "language_model" / "3" / name)
        rows = np.full((2, 5 + version), 7 * version, np.int32)
        golden.record(folder, configuration.language_model(256), {"token_ids": rows})
    return Rollout("language_model", repository, Runner(repository))


SEEN = (CanaryMetrics(1, 300, 0, 50.0), CanaryMetrics(2, 300, 0, 50.0))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (QualityMetric.stable, "2 held-out rows of 6 tokens that were recorded with the stable version 1"),
        (QualityMetric.canary, "2 held-out rows of 7 tokens that were recorded with the canary version 2"),
    ],
)
def test_both_versions_are_measured_on_the_rows_that_were_chosen_and_the_verdict_says_on_which(texts, metric, words):
    rows = quality.basis_of(texts, 1, 2, metric)
    recorded = golden.read(texts.repository.folder("language_model", 1 if metric is QualityMetric.stable else 2))
    expected = np.exp(-recorded.answers["model.onnx"]["token_logprobs"].mean())
    assert [quality.measured(texts, v, rows) for v in (1, 2)] == pytest.approx([expected] * 2, rel=1e-4)
    compared = canary.describe(texts, *SEEN, CanaryLimits(), rows)
    assert words in compared[2]
    assert compared[0] == "failed calls: of 300 that reached version 2, and of 300 that reached the stable version 1"
    assert compared[3] == "answers: both versions' to the inputs recorded with version 1 and with version 2"
    (reason,) = judge(replace(GOOD, quality=10.0), CanaryMetrics(2, 100, 0, 50.0, 11.0), CanaryLimits(), rows.name)
    assert words in reason and "'none' may be chosen instead" in reason


def test_without_a_measure_quality_does_not_count_and_the_verdict_says_so(texts):
    rows = quality.basis_of(texts, 1, 2, QualityMetric.none)
    assert rows is None and quality.measured(texts, 2, rows) is None
    assert judge(replace(GOOD, quality=None), CanaryMetrics(2, 100, 0, 50.0, None), CanaryLimits(), metric=None) == []
    assert (
        canary.describe(texts, *SEEN, CanaryLimits(), rows)[2]
        == "measure: none, as was asked; quality was not compared"
    )


def test_perplexities_of_other_tokenizers_are_not_compared(texts, tmp_path):
    repository = Repository(shutil.copytree(texts.repository.path, tmp_path / "models", symlinks=True))
    other = repository.folder("language_model", 2) / "tokenizer.json"
    other.unlink()
    other.write_text("{}")
    model = Rollout("language_model", repository, Runner(repository))
    rows = quality.basis_of(model, 1, 2, QualityMetric.canary)
    seen = [replace(o, quality=quality.measured(model, o.version, rows)) for o in SEEN]
    (reason,) = judge(*seen, CanaryLimits(), rows.name)
    assert "different tokenizers" in reason and "'none' leaves it out" in reason


def test_a_style_network_has_no_rows_of_its_own(shipped):
    with pytest.raises(SwitchError, match=r"quality: 'canary' is not accepted for style.*accepted: stable, none"):
        canary.run(shipped, 99, 10, 1, "http://127.0.0.1:9", quality_metric=QualityMetric.canary)
    version = shipped.repository.versions("style")[-1]
    rows = quality.basis_of(shipped, version, version, QualityMetric.stable)
    assert rows.description.startswith("held-out loss, which each version's own training measured")


def test_the_command_tells_how_a_canary_goes_while_it_is_watched(monkeypatch, tmp_path):
    asked = []

    def run(model, version, percent, seconds, metrics, on_sample, quality_metric):
        asked.append(quality_metric)
        on_sample(*SEEN)
        return Verdict("style", False, ("said so",), *SEEN, percent, seconds, ("p95: of 3 calls",))

    monkeypatch.setattr(canary, "run", run)
    app = typer.Typer()
    app.command()(cli.canary)
    for option in ("--quality", "--measure"):  # The latter is its former name.
        done = CliRunner().invoke(app, ["style", "2", "--repository", str(tmp_path), option, "none"])
        assert done.exit_code == 3
    assert asked == [QualityMetric.none] * 2
    assert "--measure" not in CliRunner().invoke(app, ["--help"]).output
    assert "0 s of 300: 300 calls of version 2, 0 failed; 300 calls of version 1, 0 failed\n" in done.stderr
    assert "  compared p95: of 3 calls\n" in done.stdout


def test_the_verdict_is_readable_by_prometheus():
    verdict = Verdict("style", True, ("within all limits",), GOOD, CanaryMetrics(2, 100, 1, 51.0), 10, 60)
    lines = verdict.textfile().splitlines()
    assert 'reverie_canary_promoted{model="style",version="2"} 1' in lines
    assert 'reverie_canary_p95_milliseconds{model="style",label="stable",version="1"} 50' in lines
