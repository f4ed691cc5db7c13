"""The gateway's application before a stand-in for Triton: errors, limits, callers, documentation, and no input makes it fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway import local, tables
from serving.gateway.app import connect, create_app
from serving.gateway.completion_request import CompletionRequest
from serving.gateway.local import LocalAnswer
from serving.gateway.options import GatewayOptions
from serving.gateway.process import Gateway, GatewayError
from serving.text.parameters import GenerateParameters
from serving.triton.address import ListenAddress
from tests.client import stand_in
from tests.client.stand_in import Refusal, StandIn
from tests.conftest import PROJECT
from tests.serving.forms import multipart

JSON = {"content-type": "application/json"}
PICTURE = (PROJECT / "serving/demo/pictures/cat.jpg").read_bytes()
OPTIONS = GatewayOptions(PROJECT / "model_repository", most_json=100_000, most_upload=3_000_000, idle_seconds=0.2)
Send = Callable[..., LocalAnswer]


@pytest.fixture(scope="module")
def triton() -> Iterator[tuple[str, StandIn]]:
    with stand_in.running() as found:
        yield found


@pytest.fixture
def servicer(triton: tuple[str, StandIn]) -> StandIn:
    found = triton[1]
    found.refusals, found.always, found.is_endless = [], None, False
    found.requests.clear()
    found.metadata.clear()
    found.left.clear()
    return found


@pytest.fixture(scope="module")
def send(triton: tuple[str, StandIn]) -> Iterator[Send]:
    """Sends a request to the application in this process, without a socket."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        client = connect(triton[0], OPTIONS)
        app = create_app(client, OPTIONS)

        def call(method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> LocalAnswer:
            if not isinstance(body, bytes):
                body, headers = json.dumps(body).encode(), {**JSON, **(headers or {})}
            return loop.run_until_complete(local.call(app, method, path, body, headers))

        yield call
        loop.run_until_complete(client.close())


@pytest.fixture(scope="module")
def web(triton: tuple[str, StandIn]) -> Iterator[str]:
    """The application behind a real socket, on a thread of this process; its address."""
    app = create_app(connect(triton[0], OPTIONS), OPTIONS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", http="h11", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


def ask_once(
    address: str, options: GatewayOptions, method: str, path: str, body: bytes = b"", **headers: str
) -> LocalAnswer:
    """Sends one request to an application of its own."""

    async def ask() -> LocalAnswer:
        client = connect(address, options)
        try:
            return await local.call(create_app(client, options), method, path, body, headers)
        finally:
            await client.close()

    return asyncio.run(ask())


def error_of(answer: LocalAnswer) -> dict[str, Any]:
    error = json.loads(answer.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def raw(address: str, request: bytes, then: bytes = b"") -> bytes:
    """What the server answers to bytes, until it closes the connection or is silent."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        if then:
            connection.sendall(then)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


SENT_BY_CALLERS = {"authorization", "reverie-client", "triton-grpc-protocol-reverie-api-key"}
COMPLETION = {"model": "generate", "prompt": "x"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request_error"),
        (grpc.StatusCode.UNAUTHENTICATED, 401, "authentication_error"),
        (grpc.StatusCode.PERMISSION_DENIED, 403, "permission_error"),
        (grpc.StatusCode.NOT_FOUND, 404, "not_found_error"),
        (grpc.StatusCode.ALREADY_EXISTS, 409, "invalid_request_error"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "rate_limit_error"),
        (grpc.StatusCode.CANCELLED, 499, "invalid_request_error"),
        (grpc.StatusCode.INTERNAL, 500, "server_error"),
        (grpc.StatusCode.UNAVAILABLE, 503, "server_error"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "server_error"),
    ],
)
@pytest.mark.parametrize("path", ["completions", "stream", "score", "dream"])
def test_a_status_of_grpc_is_one_of_http(send, servicer, code, status, kind, path):
    servicer.always = Refusal(code, "size: no", is_in_band=path in ("completions", "stream", "dream"))
    if path == "dream":
        answer = send("POST", "/v1/dream", PICTURE, {"content-type": "image/jpeg"})
    elif path == "score":
        answer = send("POST", "/v1/score", {"text": "x"})
    else:
        answer = send("POST", "/v1/completions", COMPLETION | {"stream": path == "stream"})
    error = error_of(answer)
    assert (answer.status, error["type"], error["message"]) == (status, kind, "size: no")
    assert error["param"] == ("size" if status == 400 else None)
    assert (answer.headers.get("retry-after") == "1") is (status in (429, 503))
    assert len(servicer.requests) == 1  # The caller is to come again, not the gateway.


def test_the_pause_that_triton_asks_for_is_passed_on(send, servicer):
    servicer.always = Refusal(metadata=(("grpc-retry-pushback-ms", "2500"),))
    assert send("POST", "/v1/completions", COMPLETION).headers["retry-after"] == "3"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/dream"])
def test_what_fails_in_a_stream_is_its_last_event(send, servicer, path):
    servicer.always = Refusal(grpc.StatusCode.INTERNAL, "lost", after=2, is_in_band=True)
    if path == "/v1/dream":
        answer = send("POST", f"{path}?stream=true", PICTURE, {"content-type": "image/jpeg"})
    else:
        answer = send("POST", path, COMPLETION | {"stream": True})
    *_, last = answer.body.decode().strip().split("\n\n")
    name, data = last.split("\n")
    assert answer.status == 200 and name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["message"] == "lost"


def test_what_the_caller_is_goes_on_to_triton(send, servicer):
    sent = {"authorization": "Bearer sk-1", "reverie-client": "anna", "x-request-id": "id-7"}
    answer = send("POST", "/v1/score", {"text": "x"}, sent)
    assert answer.headers["x-request-id"] == "id-7"
    assert sent.items() <= servicer.metadata[0].items()
    assert servicer.metadata[0]["triton-grpc-protocol-reverie-api-key"] == "sk-1"
    send("POST", "/v1/score", {"text": "x"})
    assert not SENT_BY_CALLERS & servicer.metadata[1].keys()


def test_no_key_of_the_gateway_s_own_is_lent_to_anybody(servicer, triton, monkeypatch):
    for variable in ("REVERIE_API_KEY", "REVERIE_CONTROL_KEY", "REVERIE_CLIENT"):
        monkeypatch.setenv(variable, "of-the-gateway")
    assert ask_once(triton[0], OPTIONS, "POST", "/v1/score", b'{"text": "x"}', **JSON).status == 200
    assert not SENT_BY_CALLERS & servicer.metadata[0].keys()


def test_a_request_without_an_id_or_with_one_that_no_log_can_take_gets_one(send, servicer):
    ids = {send("GET", "/healthz", headers={"x-request-id": "a\tb"}).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2 and all(len(found) == 32 for found in ids)
    assert send("GET", "/nowhere").headers["x-request-id"]


@pytest.mark.parametrize("key", ["Bearer \xe4", "k" * 5000, "a\tb"])
def test_a_key_that_no_header_of_grpc_can_carry_is_unauthenticated(send, servicer, key):
    answer = send("POST", "/v1/score", {"text": "x"}, {"authorization": key})
    assert answer.status == 401 and error_of(answer)["code"] == "invalid_api_key"


def test_pages_of_others_may_not_call_unless_they_are_let_in(send, servicer, triton):
    evil, ours = {"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:9", "host": "127.0.0.1:9"}
    assert send("POST", "/v1/score", {"text": "x"}, evil).status == 403
    assert send("POST", "/v1/score", {"text": "x"}, ours).status == 200
    rebound = {"origin": "http://evil.example:9", "host": "evil.example:9"}
    assert send("POST", "/v1/score", {"text": "x"}, rebound).status == 403

    options = GatewayOptions(OPTIONS.repository, origins=("https://good.example",))

    def ask(method: str, **headers: str) -> LocalAnswer:
        return ask_once(triton[0], options, method, "/healthz", **headers)

    good = ask("GET", origin="https://good.example")
    assert (good.status, good.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert "x-request-id" in good.headers["access-control-expose-headers"]
    preflight = {"origin": "https://good.example", "access-control-request-method": "POST"}
    assert ask("OPTIONS", **preflight).status == 200
    assert ask("GET", origin="https://evil.example").status == 403


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 150_000, "accepted: at most 100000"),
        (b'{"prompt": ' + b"[" * 90_000, "recursion"),
        (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, "recursion"),
        (b'{"prompt": "\\ud800"}', "hex escape"),
        (b'{"prompt": NaN}', "not JSON"),
        (b"[1]", "JSON array; accepted: an object"),
        (b"null", "JSON null; accepted: an object"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
        (b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", ""),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score"])
def test_json_that_is_none_or_too_deep_or_too_long_is_refused(send, servicer, body, message, path):
    answer = send("POST", path, body, JSON)
    assert answer.status in (400, 413)
    assert message in error_of(answer)["message"]
    assert not servicer.requests


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 2, "best_of": 5}, "best_of"),
        ({"tools": []}, "tools"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"] * 1000}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"a": 1}}, "stream_options"),
    ],
)
def test_what_does_not_apply_is_refused_by_its_name(send, servicer, change, parameter):
    answer = send("POST", "/v1/completions", COMPLETION | change)
    error = error_of(answer)
    assert (answer.status, error["param"]) == (400, parameter)
    assert parameter in error["message"]


def test_what_changes_nothing_is_accepted_and_null_is_as_good_as_not_given(send, servicer):
    nothing = {
        "user": "u",
        "metadata": {},
        "store": False,
        "best_of": 1,
        "suffix": "",
        "stop": None,
        "max_tokens": None,
    }
    assert send("POST", "/v1/completions", COMPLETION | nothing).status == 200
    assert servicer.requests[0].parameters.keys() == {"stream", "logprobs"}


def test_a_stop_string_is_never_read_as_json():
    assert CompletionRequest.read(COMPLETION | {"stop": "[INST]"}).stop == ("[INST]",)
    assert CompletionRequest.read(COMPLETION | {"stop": ["[", "]"]}).stop == ("[", "]")


def test_another_model_is_not_found(send, servicer):
    answer = send("POST", "/v1/completions", COMPLETION | {"model": "gpt-4"})
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")


def test_a_completion_takes_every_parameter_of_generate_as_the_model_has_it():
    for name, field in GenerateParameters.model_fields.items():
        ours = CompletionRequest.model_fields[name]
        assert (ours.annotation, ours.default, ours.metadata) == (field.annotation, field.default, field.metadata)


@pytest.mark.parametrize("name", tables.METHODS)
def test_every_parameter_of_a_picture_is_documented_with_what_it_means(send, servicer, name):
    spec = json.loads(send("GET", "/openapi.json").body)
    form = spec["paths"][f"/v1/{name}"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(tables.parameters_of(name)) | set(tables.files_of(name)) | {"stream"} == form["properties"].keys()
    assert all(form["properties"][parameter]["description"] for parameter in tables.parameters_of(name))


def test_the_documentation_asks_no_other_host(send, servicer):
    page = send("GET", "/docs")
    text = page.body.decode()
    assert page.status == 200 and "http://" not in text and "https://" not in text and '"validatorUrl": null' in text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs-files/{file}" in text and send("GET", f"/docs-files/{file}").status == 200
    completions = json.loads(send("GET", "/openapi.json").body)["paths"]["/v1/completions"]["post"]
    assert "$ref" not in json.dumps(completions["requestBody"])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_compressed_bodies_are_refused_unread(send, servicer, encoding):
    answer = send("POST", "/v1/score", b"\x1f\x8b", {**JSON, "content-encoding": encoding})
    assert answer.status == 415 and "not compressed" in error_of(answer)["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score", "/v1/stylize", "/v1/images/edits"])
def test_types_that_any_page_may_send_are_refused(send, servicer, kind, path):
    assert send("POST", path, b"{}", {"content-type": kind}).status == 415


def test_an_announced_upload_that_is_too_long_is_refused_before_it_comes(web):
    head = b"POST /v1/stylize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000000000\r\n\r\n"
    answer = raw(web, head)
    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def test_an_upload_in_chunks_is_refused_when_it_has_become_too_long(web):
    head = b"POST /v1/stylize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    # The last byte is the first too many; what would be left unread could make the system reset the connection.
    answer = raw(web, head, then=b"%x\r\n" % (OPTIONS.most_upload + 1) + b"x" * (OPTIONS.most_upload + 1))
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_upload_that_does_not_go_on_is_ended(web):
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    assert raw(web, head + b"{").startswith(b"HTTP/1.1 408")


def test_what_all_callers_send_together_is_bounded_and_freed(servicer, triton):
    options = GatewayOptions(OPTIONS.repository, most_in_work=2 * len(PICTURE), idle_seconds=5)

    async def ask() -> list[int]:
        client = connect(triton[0], options)
        app = create_app(client, options)
        kind = {"content-type": "image/jpeg", "content-length": str(len(PICTURE))}
        try:
            together = [local.call(app, "POST", "/v1/stylize", PICTURE, kind) for _ in range(3)]
            answers = [*await asyncio.gather(*together), await local.call(app, "POST", "/v1/stylize", PICTURE, kind)]
            return [answer.status for answer in answers]
        finally:
            await client.close()

    assert asyncio.run(ask()) == [200, 200, 503, 200]


@pytest.mark.parametrize("parts", [[("image", b"x")] * 40, [("seed", "1")] * 200, [("seed", "1" * 100_000)]])
@pytest.mark.parametrize("path", ["/v1/dream", "/v1/images/edits"])
def test_forms_have_a_bounded_number_of_bounded_parts(send, servicer, parts, path):
    body, kind = multipart([("image", PICTURE), *parts])
    assert send("POST", path, body, {"content-type": kind}).status == 400
    assert not servicer.requests


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_is_cancelled_when_its_caller_hangs_up(web, servicer, stream):
    servicer.is_endless = True
    body = json.dumps(COMPLETION | {"stream": stream}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    host, port = web.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        while not servicer.requests or (stream and not connection.recv(1)):
            pass
        assert not servicer.left.is_set()
    assert servicer.left.wait(5)


def test_an_edit_whose_result_is_too_small_to_measure_is_an_answer_all_the_same(send, servicer):
    """The stand-in's are no pictures at all; a preview may have sides that are refused of a photograph."""
    for model in ("stylize", "deepdream"):
        body, kind = multipart([("image", PICTURE), ("model", model)])
        answer = send("POST", "/v1/images/edits", body, {"content-type": kind})
        assert (answer.status, json.loads(answer.body)["size"]) == (200, "auto")


def test_an_edit_is_never_raw_pixels(send, servicer):
    for field in ("format", "output_format"):
        body, kind = multipart([("image", PICTURE), ("model", "deepdream"), (field, "raw")])
        assert error_of(send("POST", "/v1/images/edits", body, {"content-type": kind}))["param"] == "format"


def test_our_own_mistake_has_the_id_with_which_it_is_in_the_log(caplog):
    class Broken:
        async def styles(self) -> list[str]:
            raise RuntimeError("no such luck")

    app = create_app(Broken(), OPTIONS)
    answer = asyncio.run(local.call(app, "GET", "/v1/styles", headers={"x-request-id": "id-9"}))
    assert (answer.status, answer.headers["x-request-id"]) == (500, "id-9")
    assert error_of(answer)["type"] == "server_error" and b"luck" not in answer.body
    assert "id-9" in caplog.text and "no such luck" in caplog.text


def test_a_gateway_does_not_take_another_at_its_port_for_itself(web):
    with pytest.raises(GatewayError, match="cannot be listened on: Address already in use"):
        Gateway(web, "127.0.0.1:1").start()


def test_a_gateway_listens_on_this_machine_alone(tmp_path):
    gateway = Gateway(f"0.0.0.0:{ListenAddress.free().http_port}", "127.0.0.1:1", log=tmp_path / "log")
    with pytest.raises(GatewayError, match="ended with status 1"):
        gateway.start()
    assert "an address of this machine alone" in (tmp_path / "log").read_text()


def test_without_a_repository_texts_are_completed_and_token_ids_refused(servicer, triton):
    options = GatewayOptions(Path("nowhere"))

    def ask(prompt: Any) -> LocalAnswer:
        body = json.dumps(COMPLETION | {"prompt": prompt}).encode()
        return ask_once(triton[0], options, "POST", "/v1/completions", body, **JSON)

    assert json.loads(ask("x").body)["usage"] is None
    assert error_of(ask([1]))["param"] == "prompt"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from([*CompletionRequest.model_fields, "text", "tools"])
BODIES = st.dictionaries(NAMES, VALUES, max_size=5).map(lambda body: COMPLETION | body) | VALUES


@settings(max_examples=150, deadline=None)
@given(body=BODIES, path=st.sampled_from(["/v1/completions", "/v1/score"]))
def test_no_json_makes_the_gateway_fail(send, body, path):
    answer = send("POST", path, body)
    assert answer.status in (200, 400, 404), answer.body
    if answer.status != 200:
        assert error_of(answer)["message"]


FIELDS = st.sampled_from(
    [*tables.parameters_of("dream"), "model", "prompt", "image", "stream", "n", "a[b]", "styles[x]"]
)
PARTS = st.lists(st.tuples(FIELDS, st.text(max_size=12) | st.binary(max_size=12)), max_size=5)


@settings(max_examples=100, deadline=None)
@given(parts=PARTS, path=st.sampled_from(["/v1/dream", "/v1/stylize", "/v1/transfer", "/v1/images/edits"]))
def test_no_form_makes_the_gateway_fail(send, parts, path):
    body, kind = multipart([(name, value) for name, value in parts if _is_text(value)])
    answer = send("POST", path, body, {"content-type": kind})
    assert answer.status in (200, 400, 404), answer.body


def _is_text(value: str | bytes) -> bool:
    return isinstance(value, bytes) or not any("\ud800" <= c <= "\udfff" for c in value)
