"""The door, keys and the gateway together, before the embedded Triton: what strangers with a key meet over HTTP."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse

import grpc
import openai
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from imaging import images
from reverie.prometheus import Snapshot
from serving.door.door import Door
from serving.door.keys import KeyFile
from serving.door.opening import gateway_of
from serving.gateway.keeper import GatewayKeeper
from serving.gateway.process import Gateway
from serving.telemetry.definitions import SUPERVISOR_REGISTRY
from serving.triton.server import TritonServer
from tests.conftest import PICTURES
from tests.serving.doors import door_before
from tests.serving.doors_with_stubs import wait_until

MIB = 2**20


@dataclass(frozen=True)
class Front:
    """A door with a gateway behind it, in front of the shared server.

    Attributes:
        keys: by the name of their callers.
    """

    door: Door
    gateway: Gateway
    keys: dict[str, str]

    def ai(self, name: str) -> openai.OpenAI:
        key = self.keys.get(name, name)
        return openai.OpenAI(base_url=f"http://{self.door.settings.http}/v1", api_key=key, max_retries=0)

    def call(
        self, name: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> HTTPResponse:
        connection = HTTPConnection(*str(self.door.settings.http).split(":"), timeout=120)
        said = {"authorization": f"Bearer {self.keys[name]}"} if name else {}
        connection.request(method, path, body, {"content-type": "image/png", **said, **(headers or {})})
        return connection.getresponse()


@pytest.fixture(scope="module")
def front(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    file = KeyFile(folder / "keys.json")
    limits = {
        "anna": {},
        "berta": {},
        "painter": {"models": ("stylize",)},
        "single": {"streams": 1},
        "small": {"body_mib": 1},
    }
    keys = {name: file.add(name, **of_name) for name, of_name in limits.items()}
    opened = door_before(server, [], key_file=file.path)
    gateway = gateway_of(opened.settings, server.repository, folder / "gateway.log", threading.Event())
    settings = replace(opened.settings, gateway=gateway.address)
    with replace(opened, settings=settings) as door, GatewayKeeper(gateway) as keeper:
        keeper.wait()
        yield Front(door, gateway, keys)


@pytest.fixture(scope="module")
def small() -> bytes:
    """A picture that a step of any model takes little time for."""
    return images.encode(images.resize(images.read(PICTURES / "cat.jpg"), 64, 80), "png")


def test_the_openai_client_completes_streams_and_edits_with_a_key_and_no_more(front, small):
    asked = {"model": "generate", "prompt": "This movie was", "max_tokens": 6, "seed": 3}
    with front.ai("anna") as ai:
        text = ai.completions.create(**asked).choices[0].text
        assert "".join(chunk.choices[0].text for chunk in ai.completions.create(**asked, stream=True)) == text != ""
        edited = ai.images.edit(model="stylize", image=("cat.png", small), prompt="the scream")
        assert images.measure(base64.b64decode(edited.data[0].b64_json)) == (64, 80)
        assert [model.id for model in ai.models.list()][:3] == ["generate", "score", "stylize"]


def test_a_wrong_key_is_401_in_openai_s_form(front):
    with front.ai("wrong") as ai, pytest.raises(openai.AuthenticationError, match="nobody has this key") as error:
        ai.completions.create(model="generate", prompt="x")
    assert (error.value.status_code, error.value.code) == (401, "invalid_api_key")


def test_health_and_the_page_to_try_it_in_need_no_key(front):
    for path in ("/v2/health/ready", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert front.call("", "GET", path).status == 200, path


def test_a_key_for_one_model_sees_and_reaches_that_one_only(front, small):
    with front.ai("painter") as ai:
        assert [model.id for model in ai.models.list()] == ["stylize"]
        with pytest.raises(openai.NotFoundError, match="there are: stylize"):
            ai.models.retrieve("generate")
        assert ai.images.edit(model="stylize", image=small, prompt="")
        with pytest.raises(openai.PermissionDeniedError, match="may not call generate"):
            ai.completions.create(model="generate", prompt="x")
        for stream in (False, True):
            with pytest.raises(openai.PermissionDeniedError, match="may not call 'deepdream'"):
                ai.images.edit(model="deepdream", image=small, prompt="", stream=stream)
    claimed = {"reverie-limits": "{}", "reverie-client": "anna"}
    assert front.call("painter", "POST", "/v1/dream", small, claimed).status == 403


def begin_dream(front: Front, name: str, photo: bytes, claimed: str = "") -> HTTPResponse:
    """The answer's beginning, of a dream that takes minutes."""
    path = "/v1/dream?iterations=1000&num_octave=1&size=128&frames=100&stream=true"
    return front.call(name, "POST", path, photo, {"reverie-client": claimed} if claimed else {})


def test_streams_of_a_key_are_counted_over_http_and_freed_by_hanging_up(front, photo):
    with contextlib.closing(begin_dream(front, "single", photo)) as first:
        assert first.status == 200, first.read()
        second = begin_dream(front, "single", photo)
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        assert b"1 at the same time" in second.read()
        with front.ai("single") as ai:
            assert len(list(ai.models.list())) == 5  # Asking what there is counts as no call.
    with front.ai("single") as ai:
        wait_until(lambda: not is_refused(ai), 20)
        done = ai.completions.create(model="generate", prompt=["a", "b", "c"], max_tokens=2)
    assert len(done.choices) == 3


def is_refused(ai: openai.OpenAI) -> bool:
    try:
        ai.completions.create(model="generate", prompt="x", max_tokens=1)
    except openai.RateLimitError:
        return True
    return False


def test_whose_share_is_taken_is_said_by_the_key_and_a_caller_who_hangs_up_frees_his_places(front, photo):
    """Six jobs are as many as a caller may have."""
    jobs = [begin_dream(front, "anna", photo, claimed=f"anna {i}") for i in range(6)]
    assert [job.status for job in jobs] == [200] * 6
    assert begin_dream(front, "anna", photo, claimed="berta").status == 503
    for job in jobs:
        job.close()
    deadline = time.monotonic() + 20
    while (again := begin_dream(front, "anna", photo)).status == 503:
        assert time.monotonic() < deadline, "nothing was cancelled"
    assert again.status == 200
    again.close()


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_that_is_too_long_is_413_and_nobody_else_is_disturbed(front, is_announced):
    most = front.door.settings.limits.body_bytes
    connection = HTTPConnection(*str(front.door.settings.http).split(":"), timeout=60)
    connection.putrequest("POST", "/v1/stylize")
    connection.putheader("authorization", f"Bearer {front.keys['anna']}")
    connection.putheader("content-type", "image/png")
    connection.putheader(*(("content-length", str(most + 1)) if is_announced else ("transfer-encoding", "chunked")))
    connection.endheaders()
    try:
        for _ in range(0 if is_announced else most // MIB + 1):
            connection.send(b"%x\r\n%s\r\n" % (MIB, bytes(MIB)))
    except OSError:
        pass  # It was refused before all of it was sent.
    answer = connection.getresponse()
    assert answer.status == 413
    assert f"accepted: at most {most}" in answer.read().decode()
    assert front.call("anna", "GET", "/v1/styles").status == 200


def test_a_body_within_its_keys_limit_is_not_measured_twice(front, small):
    padded = small + bytes(MIB - len(small))  # As a gRPC message it is longer.
    assert front.call("small", "POST", "/v1/stylize", padded).status == 200
    assert front.call("small", "POST", "/v1/stylize", padded + b"x").status == 413


def test_a_gateway_that_is_killed_is_back_and_counted(front):
    killed, before = front.gateway.pid, restarts()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: front.gateway.pid not in (None, killed) and front.gateway.ready(), 20)
    assert front.call("anna", "GET", "/v1/styles").status == 200
    assert restarts() == before + 1


def restarts() -> float:
    return SUPERVISOR_REGISTRY.get_sample_value("reverie_restarts_total", {"part": "gateway"}) or 0.0


def test_calls_that_no_model_has_seen_are_counted_by_status(front, server):
    def counted() -> dict[str, float]:
        with urllib.request.urlopen(server.address.metrics) as answer:
            return Snapshot.read(answer.read().decode()).by("status", "reverie_door_requests")

    def ask(model: str, key: str) -> None:
        request = service_pb2.ModelMetadataRequest(name=model)
        with contextlib.suppress(grpc.RpcError):
            stub.ModelMetadata(request, metadata=(("x-api-key", key),), timeout=10)

    before = counted()
    with grpc.insecure_channel(str(front.door.settings.grpc)) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, key in (("stylize", "painter"), ("score", "painter"), ("stylize", "nobody")):
            ask(model, front.keys.get(key, "wrong"))
    new = {status: count - before.get(status, 0) for status, count in counted().items()}
    assert (new["OK"], new["PERMISSION_DENIED"], new["UNAUTHENTICATED"]) == (1, 1, 1)
