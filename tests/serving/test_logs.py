"""How a request is found: its id, its line in the access log, its spans; and what no log ever holds."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from reverie_client import Client, ReverieError, headers, requests
from tritonclient.grpc import service_pb2_grpc

from serving.gateway.callers import PassOnCaller, call_metadata
from serving.telemetry import access_log, logs, tracing
from serving.telemetry.identity import Identity, TraceParent
from serving.telemetry.model_metrics import ModelMetrics
from serving.triton.address import ListenAddress
from serving.triton.server import PROJECT

TRACE = TraceParent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1)
API_KEY, CONTROL_KEY = "an-api-key-nobody-logs", "a-control-key-nobody-logs"
MARKER = "zebrafinchmarker"


# Parts


def test_the_first_id_that_a_log_can_take_is_the_requests_and_else_it_gets_a_new_one():
    assert Identity.of("a-1", "b-2").request_id == "a-1"
    assert Identity.of("", "b-2") == Identity("b-2")
    for no_id in ("", "two words", "line\nfeed", "ünicode", "x" * 129, "\x7f"):
        made = Identity.of(no_id)
        assert made.is_ours and re.fullmatch("[0-9a-f]{32}", made.request_id)
    assert Identity.of().request_id != Identity.of().request_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_what_is_no_traceparent_counts_as_not_sent(text):
    assert TraceParent.read(text) is None
    assert Identity.of("a", traceparent=text).parent is None


def test_a_child_stays_in_its_trace_under_an_id_of_its_own():
    child = TraceParent.read(str(TRACE)).child()
    assert (child.trace_id, child.flags) == (TRACE.trace_id, 1) and child.span_id != TRACE.span_id
    assert TraceParent.read(str(child)) == child
    assert TraceParent.read(f"cc{str(TRACE)[2:]}-of-the-future") == TRACE


def test_a_line_says_who_asked_and_how_it_went_and_fits_a_pipe():
    identity = Identity("i" * 128, "\N{SNOWMAN}\n" * 2000, TRACE)
    request = ModelMetrics("logged", "3").arrival(identity=identity)
    request.tokens = request.pixels = 2**60
    request.begin()
    request.finish("OK")
    line = access_log.line(request, request.arrived + 0.25, datetime.datetime.now(datetime.timezone.utc))
    said = json.loads(line)
    assert (said["id"], said["model"], said["version"], said["status"]) == ("i" * 128, "logged", "3", "OK")
    assert said["took_ms"] == 250.0 and said["trace_id"] == TRACE.trace_id and said["tokens"] == 2**60
    assert line.count(b"\n") == 1 and len(line) < 4096


def test_every_request_has_one_line_however_it_ends(tmp_path):
    file = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    metrics = ModelMetrics("lines", "1", (access_log.AccessLog(file),))
    for status in ("OK", "UNAVAILABLE", "CANCELLED"):
        request = metrics.arrival()
        request.finish(status)
        request.finish("INTERNAL")  # What is said again counts for nothing.
    os.close(file)
    assert [line["status"] for line in lines_of((tmp_path / "log").read_text())] == ["OK", "UNAVAILABLE", "CANCELLED"]


def test_a_log_that_nobody_reads_fails_no_request():
    reader, writer = os.pipe()
    os.close(reader)
    request = ModelMetrics("unread", "1", (access_log.AccessLog(writer),)).arrival()
    request.finish("OK")
    os.close(writer)
    assert request.status == "OK"


def test_a_failure_is_logged_without_what_it_says():
    try:
        try:
            raise KeyError(MARKER)
        except KeyError as cause:
            raise RuntimeError(f"of {MARKER}") from cause
    except RuntimeError as failure:
        said = logs.without_messages(failure)
    assert MARKER not in said
    assert "RuntimeError" in said and "KeyError" in said and "test_logs.py" in said


def test_levels_and_formats_are_those_of_the_environment(monkeypatch, tmp_path):
    logger = logging.getLogger("reverie")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        monkeypatch.setenv(logs.LEVEL_VARIABLE, "info")
        monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
        with (tmp_path / "log").open("w") as stream:
            logs.configure(stream)
            logger.debug("not this")
            logger.info("a %s", "line")
        said = json.loads((tmp_path / "log").read_text())
        assert (said["level"], said["logger"], said["message"]) == ("info", "reverie", "a line")
        assert json.loads(logs.for_people("warning: no key"))["level"] == "warning"
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


@pytest.mark.parametrize(
    ("level", "options"),
    [
        ("", ["--log-info=false", "--log-warning=true"]),
        ("debug", ["--log-info=true", "--log-warning=true"]),
        ("error", ["--log-info=false", "--log-warning=false"]),
    ],
)
def test_tritons_own_level_follows(level, options):
    assert logs.triton_options({logs.LEVEL_VARIABLE: level}) == options


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_spans_are_sent_where_opentelemetrys_variables_ask_for_them(environment, wanted):
    assert tracing.is_wanted(environment) is wanted


def test_with_all_of_it_off_nothing_of_opentelemetry_is_imported():
    program = """
import sys
from serving.telemetry import observers
assert observers.from_environment() == ()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "REVERIE_"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=PROJECT)


def test_the_gateway_passes_on_the_trace_and_logs_a_failure_without_what_it_says(caplog):
    seen: list[dict[str, str]] = []

    async def fail(scope, receive, send):
        seen.append(dict(call_metadata()))
        raise KeyError(MARKER)

    async def send(message):
        pass

    caplog.set_level("ERROR", "reverie")
    for sent in (str(TRACE), "no-trace"):
        said = [(b"x-request-id", b"order-7"), (b"traceparent", sent.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": said}
        asyncio.run(PassOnCaller(fail)(scope, None, send))
    assert seen == [{"x-request-id": "order-7", "traceparent": str(TRACE)}, {"x-request-id": "order-7"}]
    assert "order-7" in caplog.text and "KeyError" in caplog.text and MARKER not in caplog.text


def lines_of(text: str) -> list[dict]:
    """The lines of an access log, each of which is one."""
    return [said for line in text.splitlines() if line.startswith("{") and "took_ms" in (said := json.loads(line))]


# On a real server


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans over OTLP, and keeps them."""

    def __init__(self) -> None:
        self.spans: list = []
        self.services: set[str] = set()
        super().__init__(("127.0.0.1", 0), _OtlpHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def of_trace(self, trace_id: str) -> dict[str, object]:
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}


class _OtlpHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.server.services.add(names["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Logged:
    """A server as `reverie serve` starts it, which logs all that it can."""

    address: ListenAddress
    log: Path
    collector: Collector
    seen: int = field(default=0)

    def client(self, **arguments: object) -> Client:
        return Client(self.address.grpc, api_key=API_KEY, retry=None, **arguments)

    def lines(self, request_id: str, count: int = 1) -> list[dict]:
        """Those of a request, once there are so many."""
        for _ in range(500):
            found = [line for line in lines_of(self.log.read_text()) if line["id"] == request_id]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{count} lines of {request_id}: {self.log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("logged")
    for model in ("style", "stylize", "language_model", "generate", "score"):
        shutil.copytree(PROJECT / "model_repository" / model, folder / "models" / model)
    address, collector = ListenAddress.free(), Collector()
    ports = [f"--{use}-port={getattr(address, f'{use}_port')}" for use in ("grpc", "http", "metrics")]
    options = ["--access-log", "--log-level=debug", "--log-format=json", f"--repository={folder / 'models'}"]
    environment = {
        **os.environ,
        "REVERIE_API_KEY": API_KEY,
        "REVERIE_CONTROL_KEY": CONTROL_KEY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_SERVICE_NAME": "paintings",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    command = [sys.executable, "-m", "reverie.cli", "serve", *options, *ports]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=PROJECT, env=environment)
    try:
        assert process.stdout.readline().startswith("ready"), (folder / "log").read_text()[-3000:]
        yield Logged(address, folder / "log", collector)
    finally:
        process.terminate()
        process.communicate(timeout=60)
        collector.shutdown()


@pytest.mark.service
def test_an_answer_has_its_requests_id_and_so_has_its_line(logged):
    with logged.client(name="a shop") as client:
        score = client.score("this movie was good")
        with client.generate("this movie", max_tokens=4) as stream:
            list(stream)
    (line, below) = sorted(logged.lines(score.request_id, 2), key=lambda line: line["model"], reverse=True)
    assert (line["model"], line["client"], line["status"], line["version"]) == ("score", "a shop", "OK", "1")
    assert below["model"] == "language_model" and line["took_ms"] >= below["took_ms"] >= below["waited_ms"] >= 0
    (streamed,) = logged.lines(stream.request_id)
    assert (streamed["model"], streamed["tokens"]) == ("generate", 4)


@pytest.mark.service
def test_a_refusal_and_a_cancellation_have_their_lines_and_errors_their_id(logged):
    with logged.client() as client:
        with pytest.raises(ReverieError) as refused:
            client.score("")
        with pytest.raises(ReverieError) as refused_stream:
            list(client.generate("this movie", max_tokens=-1))
        with client.generate("this movie", max_tokens=256, temperature=1.0, ignore_eos=True) as left:
            next(left)
    assert logged.lines(refused.value.request_id)[0]["status"] == "INVALID_ARGUMENT"
    assert logged.lines(refused_stream.value.request_id)[0]["status"] == "INVALID_ARGUMENT"
    assert logged.lines(left.request_id)[0]["status"] == "CANCELLED"


@pytest.mark.service
def test_the_callers_own_id_is_kept_and_a_caller_without_one_is_told_it(logged):
    with logged.client(call_metadata=lambda: {headers.REQUEST_ID: "order-7/a"}) as client:
        assert client.score("this movie was good").request_id == "order-7/a"
    logged.lines("order-7/a", 2)
    key = ((headers.GRPC_RESTRICTED_PREFIX + headers.API_KEY, API_KEY),)
    with grpc.insecure_channel(logged.address.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        said = ((headers.REQUEST_ID, "of-a-stranger"), ("traceparent", str(TRACE)))
        _, call = stub.ModelInfer.with_call(requests.score("this movie was good"), metadata=key + said)
        assert dict(call.initial_metadata())[headers.REQUEST_ID] == "of-a-stranger"
        assert logged.lines("of-a-stranger")[0]["trace_id"] == TRACE.trace_id
        _, call = stub.ModelInfer.with_call(requests.score("this movie was good"), metadata=key)
        logged.lines(dict(call.initial_metadata())[headers.REQUEST_ID])


@pytest.mark.service
def test_a_request_is_a_span_of_its_callers_trace_with_its_parts_and_the_siblings_below(logged, photo):
    with logged.client(call_metadata=lambda: {"traceparent": str(TRACE.child())}) as client:
        assert client.stylize(photo)
    for _ in range(500):
        if {"stylize", "style", "encode"} <= (spans := logged.collector.of_trace(TRACE.trace_id)).keys():
            break
        time.sleep(0.02)
    assert logged.collector.services == {"paintings"}
    whole, below = spans["stylize"], spans["style"]
    assert below.parent_span_id == whole.span_id
    parts = [span for span in logged.collector.spans if span.parent_span_id == whole.span_id and span is not below]
    assert [span.name for span in sorted(parts, key=lambda span: span.start_time_unix_nano)] == [
        "wait",
        "compute",
        "encode",
    ]
    assert all(whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in parts)


@pytest.mark.service
def test_no_prompt_no_picture_and_no_key_is_in_any_log(logged, photo):
    with logged.client(name="a shop") as client:
        list(client.generate(f"this {MARKER}", max_tokens=4))
        client.score(f"this {MARKER} was good")
        client.stylize(photo)
        for call in (
            lambda: list(client.generate(f"this {MARKER}", max_tokens=-1)),
            lambda: client.stylize(MARKER.encode()),
            lambda: client.stylize(photo, style=MARKER),
        ):
            with pytest.raises(ReverieError) as refused:
                call()
            logged.lines(refused.value.request_id)
    written = logged.log.read_bytes()
    assert b'"model": "stylize"' in written
    for secret in (MARKER.encode(), API_KEY.encode(), CONTROL_KEY.encode(), photo[100:140], photo.hex()[:80].encode()):
        assert secret not in written
    for line in written.decode().splitlines():
        assert not line.startswith("{") or json.loads(line)
