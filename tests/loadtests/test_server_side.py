"""The server's counters and memory, as a load test reads them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from loadtests.calls import Call
from loadtests.measure import percentile
from loadtests.memory import Sampler, Slope, Usage, growth_violations, session_of, slope
from loadtests.server_metrics import Poll, Poller, ServerSide, intervals, server_sides, whole
from loadtests.slo import SoakBounds
from reverie.prometheus import Snapshot

TRITON = """\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="style",version="1"} 4
nv_inference_request_success{model="style",version="2"} 6
nv_inference_request_success{model="stylize",version="1"} 600
nv_inference_request_failure{model="style",reason="REJECTED",version="1"} 3
nv_inference_request_duration_us{model="style",version="2"} 2e+06
nv_inference_count{model="style",version="2"} 20
nv_inference_exec_count{model="style",version="2"} 5
nv_inference_queue_duration_us{model="style",version="2"} 40000
"""


def ours(scale: int = 1) -> str:
    """Metrics of `stylize` and `generate`, as often as said."""
    return f"""\
# TYPE reverie_requests_total counter
reverie_requests_total{{model="generate",status="OK",version="1"}} 8
reverie_requests_total{{model="stylize",status="OK",version="1"}} {4 * scale}
reverie_requests_total{{model="stylize",status="UNAVAILABLE",version="1"}} {2 * scale}
# TYPE reverie_request_seconds histogram
reverie_request_seconds_bucket{{le="0.1",model="stylize",version="1"}} 0
reverie_request_seconds_bucket{{le="0.2",model="stylize",version="1"}} {4 * scale}
reverie_request_seconds_bucket{{le="+Inf",model="stylize",version="1"}} {4 * scale}
reverie_request_seconds_count{{model="stylize",version="1"}} {4 * scale}
reverie_request_seconds_sum{{model="stylize",version="1"}} {0.6 * scale}
# TYPE reverie_decode_batch_rows histogram
reverie_decode_batch_rows_count{{model="generate"}} {10 * scale}
reverie_decode_batch_rows_sum{{model="generate"}} {25 * scale}
"""


def test_ours_are_read_where_a_model_has_them_though_triton_calls_refusals_successes():
    sides = server_sides(Snapshot.read(TRITON + ours()))
    stylize = sides["stylize"]
    assert stylize.statuses == {"OK": 4, "UNAVAILABLE": 2}
    assert (stylize.request_ms, stylize.p50_ms, stylize.p95_ms) == pytest.approx((150, 150, 195))
    assert (stylize.queue_ms, stylize.first_message_ms, stylize.batch) == (None, None, None)


def test_of_a_model_on_one_of_triton_s_own_backends_triton_s_are_read_and_versions_added():
    side = server_sides(Snapshot.read(TRITON + ours()))["style"]
    assert side == ServerSide("style", {"OK": 10, "REJECTED": 3}, queue_ms=4.0, request_ms=200.0, batch=4.0)


def test_an_interval_is_what_changed_between_two_polls():
    polls = [Poll(at, Snapshot.read(ours(scale))) for at, scale in ((1.0, 1), (3.0, 3), (4.0, 3))]
    generate, stylize, *idle = intervals(polls)
    assert (stylize.model, stylize.at_s, stylize.requests_per_s) == ("stylize", 2.0, 6.0)
    assert stylize.side.statuses == {"OK": 8, "UNAVAILABLE": 4}
    assert (generate.model, generate.side.batch) == ("generate", 2.5)
    assert [(i.requests_per_s, i.side.p95_ms, i.side.batch) for i in idle] == [(0.0, None, None)] * 2
    assert whole(polls)["stylize"].statuses == {"OK": 8, "UNAVAILABLE": 4}
    assert whole(polls[:1]) == {}


def test_the_two_sides_of_a_load_agree(server, client, photo):
    """In one of three tries: where other work holds up the caller, it measures more than the server."""
    assert any(_sides_agree(server, client, photo) for _ in range(3))


def _sides_agree(server, client, photo) -> bool:
    poller, calls = Poller(server.address.metrics), []
    poller.poll()
    for _ in range(12):
        began = time.perf_counter()
        client.stylize(photo, size=256)
        calls.append(Call("stylize", began, began, time.perf_counter()))
    poller.poll()
    side = whole(poller.polls)["stylize"]
    assert side.statuses == {"OK": 12}
    return side.p50_ms == pytest.approx(percentile([c.milliseconds for c in calls], 50), rel=0.15)


def test_metrics_that_do_not_answer_are_no_error():
    silent, unknown = Poller("http://127.0.0.1:9/metrics"), Poller("")
    silent.poll()
    unknown.poll()
    assert silent.polls == unknown.polls == []


def test_a_page_that_is_no_metrics_leaves_a_gap():
    page = "<html><body>Not found, and {nothing} of the sort</body></html>"
    with pytest.raises(ValueError):
        Snapshot.read(page)
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
