"""Streams through Envoy and the guard to a stub of Triton that says what has reached it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from tritonclient.grpc import service_pb2

from serving.door.door import Door
from serving.door.folder import make_folder
from serving.door.guard.admission import Keys
from serving.door.settings import DoorSettings, Limits, PublicAddress
from serving.triton.address import ListenAddress
from tests.serving.doors_with_stubs import STREAM, wait_until

LARGEST = 8 * 2**20
LEAK = "no space for triton_python_backend_shm_region_2a left"


def request(model: str = "style", size: int = 0, harm: bool = False) -> bytes:
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)] if size else [])
    if harm:
        made.outputs.add(name="text").parameters["classification"].int64_param = 1
    return made.SerializeToString()


@dataclass
class Triton(grpc.GenericRpcHandler):
    """Answers each message by its size; those of the models "fails" and "waits" otherwise."""

    arrived: list[bytes] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)
    left: threading.Event = field(default_factory=threading.Event)

    def service(self, details):
        self.metadata = dict(details.invocation_metadata)
        return grpc.stream_stream_rpc_method_handler(self._stream)

    def _stream(self, messages, context):
        context.add_callback(self.left.set)
        for message in messages:
            if message == b"\xff":
                return  # What Triton's gRPC cannot parse is the end to it.
            self.arrived.append(message)
            if message == request("fails"):
                context.abort(grpc.StatusCode.INTERNAL, LEAK)
            if message == request("waits"):
                self.left.wait(30)
            yield str(len(message)).encode()


@dataclass
class Opened:
    triton: Triton
    door: Door
    channel: grpc.Channel

    def stream(self, *messages: bytes, **options):
        return self.channel.stream_stream(STREAM)(iter(messages), timeout=20, **options)

    def status(self, *messages: bytes, **options) -> tuple[list[bytes], str, str]:
        """What came before the end, and the end."""
        call, came = self.stream(*messages, **options), []
        try:
            came.extend(call)
        except grpc.RpcError as error:
            return came, error.code().name, error.details()
        return came, "OK", ""


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    triton, listen = Triton(), ListenAddress.free()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[triton], options=[("grpc.max_receive_message_length", -1)])
    settings = DoorSettings(
        make_folder(),
        grpc=PublicAddress(port=listen.grpc_port),
        http=PublicAddress(port=listen.http_port),
        triton_grpc_port=server.add_insecure_port("127.0.0.1:0"),
        limits=Limits(message_bytes=LARGEST),
    )
    server.start()
    options = [("grpc.max_send_message_length", -1)]
    with (
        Door(settings, Keys("triton's", "triton's control", "control")) as door,
        grpc.insecure_channel(str(settings.grpc), options) as channel,
    ):
        yield Opened(triton, door, channel)
    server.stop(None).wait()


@pytest.fixture
def through(opened) -> Opened:
    opened.triton.arrived.clear()
    opened.triton.left.clear()
    return opened


@pytest.mark.parametrize("size", [0, 100, 300_000, LARGEST - 100])
def test_messages_of_any_size_go_through_as_they_are(through, size):
    sent = [request(size=size), request(), request(size=size)]
    came, code, _ = through.status(*sent)
    assert code == "OK" and through.triton.arrived == sent
    assert came == [str(len(message)).encode() for message in sent]


@pytest.mark.parametrize("size", [0, 300_000, LARGEST - 100])
def test_a_harmful_first_message_of_any_size_never_arrives(through, size):
    came, code, details = through.status(request(size=size, harm=True))
    assert (came, code) == ([], "INVALID_ARGUMENT") and "classification" in details
    assert through.triton.arrived == []


def test_a_harmful_later_message_never_arrives_and_what_was_asked_before_is_answered(through):
    began = threading.Event()

    def messages():
        yield request()
        assert began.wait(10)
        yield request(size=1_000, harm=True)
        yield request("after")

    call = through.channel.stream_stream(STREAM)(messages(), timeout=20)
    assert next(call)
    began.set()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "classification" in caught.value.details()
    assert through.triton.arrived == [request()]


def test_a_harmful_large_message_after_an_answer_never_arrives_whole(through):
    began = threading.Event()

    def messages():
        yield request()
        assert began.wait(10)
        yield request(size=2**20, harm=True)

    call = through.channel.stream_stream(STREAM)(messages(), timeout=20)
    assert next(call)
    began.set()
    with pytest.raises(grpc.RpcError):
        next(call)
    assert through.triton.arrived == [request()]


def test_a_message_beyond_the_bound_is_refused(through):
    _, code, details = through.status(request(size=LARGEST + 1))
    assert code == "RESOURCE_EXHAUSTED" and str(LARGEST) in details
    assert through.triton.arrived == []


def test_triton_gets_the_door_s_key_and_nothing_else_of_the_caller_s(through):
    mine = (("x-mine", "1"), ("authorization", "Bearer x"), ("triton_grpc_error", "true"), ("reverie-limits", "{}"))
    assert through.status(request(), metadata=mine)[1] == "OK"
    found = through.triton.metadata
    assert found["triton-grpc-protocol-reverie-api-key"] == "triton's" and "127.0.0.1" in found["reverie-client"]
    assert not {name for name, _ in mine} & found.keys()


def test_a_caller_who_leaves_ends_the_work(through):
    call = through.stream(request("waits"))
    wait_until(lambda: through.triton.arrived, 10)
    call.cancel()
    assert through.triton.left.wait(10)


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "after an answer"])
def test_names_of_shared_memory_are_not_told_in_a_status(through, before):
    came, code, details = through.status(*[request()] * before, request("fails"))
    assert (len(came), code) == (before, "INTERNAL")
    assert "region" not in details and "no space" in details


def test_a_guard_that_dies_ends_the_stream_instead_of_leaving_it_unchecked(through):
    died = threading.Event()

    def messages():
        yield request()
        assert died.wait(10)
        yield request(harm=True)

    call = through.channel.stream_stream(STREAM)(messages(), timeout=20)
    assert next(call)
    os.kill(through.door.guard.pid, signal.SIGKILL)
    died.set()
    with pytest.raises(grpc.RpcError):
        next(call)
    assert through.triton.arrived == [request()]
