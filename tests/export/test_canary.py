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
from onnx import TensorProto, helper, numpy_helper

from export import recording
from export.canary import Limits, Observed, Verdict, compare_answers, judge, observe
from export.repository import Repository
from export.switching import Model
from serving.client import Inference, ReverieError

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
    assert observe(METRICS, "style", 2) == Observed(2, requests=100, failures=10, p95_ms=28.471)
    assert observe(METRICS, "style", 1) == Observed(1, requests=7)


GOOD = Observed(1, requests=1000, failures=2, p95_ms=50.0, measure=130.0)


@pytest.mark.parametrize(
    ("canary", "reason"),
    [
        (Observed(2, 100, 0, 55.0, 131.0), None),
        (Observed(2, 100, 0, None, 130.0), "its p95 in ms is unknown"),
        (Observed(2, 100, 0, 50.0, None), "its measure is unknown; accepted: a number for both versions"),
        (Observed(2, 100, 0, 50.0, math.nan), "its measure is nan"),
        (Observed(2, 100, 0, 50.0, math.inf), "its measure is inf"),
        (Observed(2, 100, 0, 50.0, -math.inf), "its measure is -inf"),
        (Observed(2, 100, 0, math.nan, 130.0), "its p95 in ms is nan"),
        (Observed(2, 19, 0, 50.0, 130.0), "19 requests reached it; at least 20"),
        (Observed(2, 100, 2, 50.0, 130.0), r"2\.0% of its requests failed, of the stable version's 0\.2%"),
        (Observed(2, 100, 0, 63.0, 130.0), "p95 in ms is 63, the stable version's 50"),
        (Observed(2, 100, 0, 50.0, 133.0), "measure is 133, the stable version's 130"),
    ],
)
def test_a_canary_is_promoted_within_the_limits_and_not_beyond(canary, reason):
    reasons = judge(GOOD, canary, Limits())
    assert bool(reasons) == bool(reason)
    if reason:
        assert re.search(reason, reasons[0])


@pytest.mark.parametrize("name", ["p95_ms", "measure"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_canary_is_not_promoted_where_the_stable_version_cannot_be_measured(name, value):
    (reason,) = judge(replace(GOOD, **{name: value}), Observed(2, 100, 0, 50.0, 130.0), Limits())
    assert reason.startswith("the stable version's ")


class Runner:
    """A server's client that runs the graphs of a repository."""

    def __init__(self, repository: Repository):
        self.repository = repository

    def infer(self, model, inputs, version):
        graph = self.repository.folder(model, int(version)) / "model.onnx"
        try:
            return Inference(recording.run(graph, inputs), version)
        except Exception as error:
            raise ReverieError(grpc.StatusCode.INTERNAL, str(error)) from None


@pytest.fixture
def shipped(tmp_path) -> Model:
    """The shipped style network, with versions of a test's own beside it."""
    repository = Repository(shutil.copytree(PROJECT / "model_repository", tmp_path / "models"))
    return Model("style", repository, Runner(repository))


@pytest.mark.slow
def test_a_version_is_compared_with_the_stable_one_on_the_recorded_inputs_and_in_every_style(shipped):
    stable = shipped.repository.versions("style")[-1]
    assert compare_answers(shipped, stable, stable) == []
    for spoil, fault in {
        "all": "a picture of one colour (luminance 0 of 255)",
        "third": "a picture of one colour (luminance 0 of 255)",
        "fails": "recorded inputs were not answered",
    }.items():
        assert fault in compare_answers(shipped, stable, spoiled(shipped, spoil))[0]


def spoiled(model: Model, how: str) -> int:
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
        recording.record(folder, model.description(stable), {})
    return version


def test_the_verdict_is_readable_by_prometheus():
    verdict = Verdict("style", True, ("within all limits",), GOOD, Observed(2, 100, 1, 51.0), 10, 60)
    lines = verdict.textfile().splitlines()
    assert 'reverie_canary_promoted{model="style",version="2"} 1' in lines
    assert 'reverie_canary_p95_milliseconds{model="style",label="stable",version="1"} 50' in lines
