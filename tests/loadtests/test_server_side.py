"""The server's counters and memory, as a load test reads them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtests.memory import Sampler, Slope, Usage, growth_violations, session_of, slope
from loadtests.server_metrics import Poll, Poller, intervals, parse
from loadtests.slo import SoakBounds

TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="style",version="1"} 4
nv_inference_request_success{model="style",version="2"} 6
nv_inference_request_failure{model="style",reason="REJECTED",version="1"} 3
nv_inference_count{model="style",version="2"} 20
nv_inference_exec_count{model="style",version="2"} 5
nv_inference_queue_duration_us{model="style",version="2"} 40000
nv_inference_compute_infer_duration_us{model="style",version="2"} 1.5e+06
nv_cpu_utilization 0.5
nv_inference_queue_summary_us{model="style",version="2",quantile="0.5"} 7
"""


def counters(**changes: float) -> dict[str, dict[str, float]]:
    return {"style": {**parse(TEXT)["style"], **changes}}


def test_counters_of_all_versions_of_a_model_are_added():
    assert parse(TEXT) == {
        "style": {"requests": 10, "inferences": 20, "executions": 5, "queue_us": 40_000, "compute_us": 1_500_000}
    }


def test_a_label_with_commas_quotes_and_braces_is_read_whole():
    text = 'nv_inference_count{version="1",model="a, \\"b\\" {c}"} 2\nnv_inference_count{model="d"} 3 1700000000\n'
    assert {model: found["inferences"] for model, found in parse(text).items()} == {'a, "b" {c}': 2, "d": 3}


def test_an_interval_is_what_changed_between_two_polls():
    later = counters(requests=30, inferences=40, executions=10, queue_us=60_000, compute_us=1_700_000)
    [found] = intervals([Poll(1.0, counters()), Poll(3.0, later)])
    assert (found.model, found.at_s, found.requests_per_s) == ("style", 2.0, 10.0)
    assert (found.queue_ms, found.compute_ms, found.batch) == (1.0, 10.0, 4.0)


def test_an_idle_model_has_no_means():
    [found] = intervals([Poll(0.0, counters()), Poll(1.0, counters())])
    assert (found.requests_per_s, found.queue_ms, found.compute_ms, found.batch) == (0.0, None, None, None)


def test_a_restarted_server_leaves_a_gap():
    assert intervals([Poll(0.0, counters()), Poll(1.0, counters(requests=0))]) == []


def test_metrics_that_do_not_answer_are_no_error():
    silent, unknown = Poller("http://127.0.0.1:9/metrics"), Poller("")
    silent.poll()
    unknown.poll()
    assert silent.polls == unknown.polls == []


def test_a_page_that_is_no_metrics_leaves_a_gap():
    page = "<html><body>Not found, and {nothing} of the sort</body></html>"
    with pytest.raises(ValueError):
        parse(page)
    with answering(page) as url:
        poller = Poller(url)
        poller.poll()
    assert poller.polls == []


@contextlib.contextmanager
def answering(page: str) -> Iterator[str]:
    """The address of a server that answers everything with `page`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"


def usage(at_s: float, mib: float) -> Usage:
    return Usage(at_s, mib, processes=1, descriptors=10, threads=4)


def test_the_slope_is_that_of_a_leak_and_single_peaks_do_not_move_it():
    leaking = [usage(10.0 * i, 500 + 0.1 * i + (200 if i == 50 else 0)) for i in range(100)]
    found = slope(leaking)
    assert found is not None and found.mib_per_hour == pytest.approx(36, rel=0.01)


def test_growth_at_the_beginning_is_no_leak():
    warming = [usage(10.0 * i, min(300 + 20 * i, 500)) for i in range(100)]
    assert slope(warming) == Slope(0.0, 0.0, 0.0)


def test_too_few_samples_have_no_slope():
    assert slope([]) is None
    assert slope([usage(0, 1), usage(10, 1)]) is None


def test_memory_is_that_of_a_whole_session_of_processes():
    script = "import subprocess, sys; p = subprocess.Popen(['cat'], stdin=subprocess.PIPE); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        sampler = Sampler(leader.pid)
        sampler.sample()
        assert set(session_of(leader.pid)) == {leader.pid, child} and os.getpid() not in session_of(leader.pid)
        leader.kill()
    assert sampler.samples[0].processes == 2 and sampler.samples[0].mib > 1
    sampler.sample()
    assert sampler.samples[1].processes == 0


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        (Slope(100, 70, 130), ["memory grows by 70 to 130 MiB an hour, at most 64 promised"]),
        (Slope(100, 60, 140), []),
        (None, ["too few looks at the memory for a slope; run longer, or look more often"]),
    ],
)
def test_only_a_growth_that_is_surely_above_the_bound_is_a_violation(found: Slope | None, sentences: list[str]):
    assert growth_violations(found, [usage(0, 500)], SoakBounds(64)) == sentences


def test_a_server_that_has_ended_does_not_pass_for_one_that_does_not_grow():
    ended = Usage(10, 0.0, processes=0, descriptors=0, threads=0)
    assert growth_violations(Slope(0, 0, 0), [ended], SoakBounds()) == ["the server's processes have ended"]
