import re

import pytest

from export.canary import Limits, Observed, Verdict, judge, observe

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
        (Observed(2, 100, 0, None, None), None),
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


def test_the_verdict_is_readable_by_prometheus():
    verdict = Verdict("style", True, ("within all limits",), GOOD, Observed(2, 100, 1, 51.0), 10, 60)
    lines = verdict.textfile().splitlines()
    assert 'reverie_canary_promoted{model="style",version="2"} 1' in lines
    assert 'reverie_canary_p95_milliseconds{model="style",label="stable",version="1"} 50' in lines
