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

from registry import canary, canary_latency, cli, configuration, golden, quality
from registry.canary import CanaryLimits, Verdict, compare_answers, describe_p95, judge
from registry.canary_metrics import CanaryMetrics, observe
from registry.quality_metric import QualityMetric
from registry.repository import Repository
from registry.rollout import Rollout, SwitchError

PROJECT = Path(__file__).resolve().parents[2]

METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="style",version="2"} 90
nv_inference_request_success{model="style",version="1"} 7
nv_inference_request_success{model="stylize",version="2"} 1000
nv_inference_request_failure{model="style",reason="BACKEND",version="2"} 6
nv_inference_request_failure{model="style",reason="OTHER",version="2"} 4
nv_inference_request_failure{model="style",reason="CANCELED",version="2"} 50
nv_inference_request_summary_us{model="style",version="2",quantile="0.95"} 28471
nv_inference_request_summary_us{model="style",version="1",quantile="0.95"} Nan
"""


def test_a_version_s_own_numbers_are_read_from_triton_s_metrics():
    assert observe(METRICS, "style", 2) == CanaryMetrics(2, requests=100, failures=10, p95_ms=28.471)
    assert observe(METRICS, "style", 1) == CanaryMetrics(1, requests=7)


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
        (CanaryMetrics(2, 100, 2, 50.0, 130.0), r"2\.0% of its requests failed, of the stable version's 0\.2%"),
        (CanaryMetrics(2, 100, 0, 63.0, 130.0), "p95 in ms is 63, the stable version's 50"),
        (CanaryMetrics(2, 100, 0, 50.0, 133.0), "measure is 133, the stable version's 130"),
    ],
)
def test_a_canary_is_promoted_within_the_limits_and_not_beyond(canary, reason):
    reasons = judge(GOOD, canary, CanaryLimits())
    assert bool(reasons) == bool(reason)
    if reason:
        assert re.search(reason, reasons[0])


@pytest.mark.parametrize("name", ["p95_ms", "quality"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_canary_is_not_promoted_where_the_stable_version_cannot_be_measured(name, value):
    (reason,) = judge(replace(GOOD, **{name: value}), CanaryMetrics(2, 100, 0, 50.0, 130.0), CanaryLimits())
    assert reason.startswith("the stable version's ")


QUANTILES = (0.5, 0.9, 0.95, 0.99)


def watched(version: int, times_ms: np.ndarray) -> list[CanaryMetrics]:
    """What Triton's summary says of each row of times."""
    quantiles = np.quantile(times_ms, QUANTILES, axis=1, method="inverted_cdf").T
    seen = [dict(zip(QUANTILES, row.tolist(), strict=True)) for row in quantiles]
    return [CanaryMetrics(version, times_ms.shape[1], 0, q[0.95], 1.0, canary_latency.spread(q)) for q in seen]


def rolling(version: int, times_ms: np.ndarray, minutes: int = 5) -> list[CanaryMetrics]:
    """The same of canaries that were watched for so long: Triton's summary is of the last minute, and its median counts."""
    parts = [watched(version, part) for part in np.array_split(times_ms, minutes, axis=1)]
    p95 = np.median([[o.p95_ms for o in part] for part in parts], axis=0)
    spread = np.median([[o.spread for o in part] for part in parts], axis=0)
    return [CanaryMetrics(version, times_ms.shape[1], 0, *o) for o in zip(p95, [1.0] * len(p95), spread, strict=True)]


def refused_share(calls: int, slower: float = 1.0, spread: float = 0.5, look=watched, trials: int = 500) -> float:
    """How many of so many canaries of `calls` calls beside nine times as many are refused; seeded."""
    rng = np.random.default_rng(30)
    stable, canaries = (rng.lognormal(3, spread, (trials, n)) for n in (9 * calls, calls))
    pairs = zip(look(1, stable), look(2, canaries * slower), strict=True)
    return sum(bool(judge(*pair, CanaryLimits())) for pair in pairs) / trials


@pytest.mark.parametrize("look", [watched, rolling])
@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("calls", [20, 34, 100, 400])
def test_an_equal_version_is_seldom_refused_for_p95_however_few_calls_reach_it(calls, spread, look):
    assert refused_share(calls, spread=spread, look=look) <= 0.03


def test_a_slower_version_is_refused_when_enough_calls_reach_it_and_a_much_slower_one_soon():
    assert refused_share(1000, slower=1.6) > 0.97
    assert refused_share(34, slower=5.0) > 0.99


@pytest.mark.parametrize("slower", [1.0, 1.5])
def test_so_many_calls_as_are_said_to_be_needed_tell_the_limit_from_chance(slower):
    needed = canary_latency.calls_needed(0.5, CanaryLimits.p95, stable_share=9)
    assert needed is not None and canary_latency.chance_ratio(0.5, 9 * needed, needed) <= CanaryLimits.p95
    assert canary_latency.chance_ratio(0.5, 9 * (needed - 1), needed - 1) > CanaryLimits.p95
    assert (refused_share(needed, slower) > 0.5) == (slower > CanaryLimits.p95)


def test_how_many_calls_are_needed_is_said_where_p95_is_of_too_few():
    stable = CanaryMetrics(1, 306, 0, 50.0, 1.0, spread=0.5)
    told = describe_p95(stable, CanaryMetrics(2, 34, 0, 70.0, 1.0), CanaryLimits())
    assert re.search(
        r"of 34 calls and of 306.* differ by up to 1\.56 times by chance.*135 calls of the canary tell", told
    )
    assert "chance" not in describe_p95(stable, CanaryMetrics(2, 1000, 0, 70.0, 1.0), CanaryLimits())
    assert "nothing to compare" in describe_p95(stable, CanaryMetrics(2), CanaryLimits())
    assert "nothing to compare" in describe_p95(CanaryMetrics(1), CanaryMetrics(2, 34), CanaryLimits())
    assert "no number of calls" in describe_p95(stable, CanaryMetrics(2, 34, 0, 70.0, 1.0), CanaryLimits(p95=1.0))


def test_the_spread_is_read_from_triton_s_quantiles():
    lines = [
        f'nv_inference_request_summary_us{{model="style",version="3",quantile="{q}"}} {1000 * np.exp(0.7 * z)}'
        for q, z in zip(QUANTILES, (0, 1.2816, 1.6449, 2.3263), strict=True)
    ]
    assert observe("\n".join(lines), "style", 3).spread == pytest.approx(0.7, rel=1e-3)


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
    styles = {"all": np.zeros((5, 1)), "third": np.eye(5)[:, 2:3] == 0, "fails": np.zeros((7, 1))}[how]
    graph.graph.initializer.append(numpy_helper.from_array(styles.astype(np.float32), "kept"))
    graph.graph.node.extend(
        [
            helper.make_node("MatMul", ["style_weights", "kept"], ["keeps"]),
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
