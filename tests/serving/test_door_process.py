"""`reverie serve` with its door, as a process: what it opens, who gets in, what can be seen of it, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from reverie_client import Client, hosts
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.triton.address import ListenAddress
from serving.triton.server import PROJECT

API_KEY, CONTROL_KEY = "a key for callers", "a key for publishers"


@dataclass(frozen=True)
class Serving:
    """A running `reverie serve`."""

    process: subprocess.Popen
    address: ListenAddress

    def below(self) -> dict[str, psutil.Process]:
        """Its children and theirs, by the name of their program and number."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return {f"{Path(child.exe()).name} {child.pid}": child for child in found}


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Iterator[Serving]:
    """For other machines too, with both keys, on the two models that start fastest."""
    repository = tmp_path_factory.mktemp("door") / "model_repository"
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, repository / model)
    address = ListenAddress.free()
    ports = [f"--{use}-port={getattr(address, f'{use}_port')}" for use in ("grpc", "http", "metrics")]
    command = [sys.executable, "-m", "reverie.cli", "serve", f"--repository={repository}", "--host=0.0.0.0", *ports]
    keys = {"REVERIE_API_KEY": API_KEY, "REVERIE_CONTROL_KEY": CONTROL_KEY}
    with (repository.parent / "log").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=PROJECT, env={**os.environ, **keys}
        )
    line = process.stdout.readline()
    assert line.startswith("ready: gRPC"), (repository.parent / "log").read_text()
    yield Serving(process, address)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_other_machines_reach_the_door_s_ports_only(serving):
    listening = {
        connection.laddr
        for process in serving.below().values()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    elsewhere = {address.port for address in listening if not hosts.is_loopback(address.ip)}
    assert elsewhere == {serving.address.grpc_port, serving.address.http_port}


@pytest.mark.slow
def test_triton_behind_the_door_answers_health_and_nothing_else(serving):
    (triton,) = (p for name, p in serving.below().items() if name.startswith("tritonserver"))
    ports = {c.laddr.port for c in triton.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    codes = set()
    for port in ports - {serving.address.metrics_port}:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for metadata in ((), (("triton-grpc-protocol-reverie-api-key", API_KEY),)):
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ModelInfer(service_pb2.ModelInferRequest(model_name="style"), metadata=metadata, timeout=5)
                codes.add(caught.value.details().partition(",")[0])
    assert "This protocol is restricted" in codes


@pytest.mark.slow
def test_keys_open_what_they_are_for(serving, photo):
    address = f"127.0.0.1:{serving.address.grpc_port}"
    with Client(address, api_key=API_KEY, control_key=CONTROL_KEY) as client:
        assert client.stylize(photo)
        assert {model.name for model in client.models()} == {"style", "stylize"}
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5).ready
        request = service_pb2.ModelInferRequest(model_name="style")
        for metadata in ((), (("triton-grpc-protocol-reverie-api-key", "wrong"),)):
            for call in (stub.ModelInfer, lambda sent, **options: list(stub.ModelStreamInfer(iter([sent]), **options))):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, metadata=metadata, timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.slow
def test_nobody_sees_a_key_in_the_list_of_processes(serving):
    for process in serving.below().values():
        assert not [key for key in (API_KEY, CONTROL_KEY) if key in " ".join(process.cmdline())]
        assert not [key for key in (API_KEY, CONTROL_KEY) if key in process.environ().values()]


@pytest.mark.slow
def test_a_signal_ends_all_of_it(serving):
    below = serving.below()
    arguments = (argument.removeprefix("unix:") for p in below.values() for argument in p.cmdline())
    folders = {Path(argument).parent for argument in arguments if "reverie-door-" in argument}
    assert len(folders) == 1
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(60) == 0
    assert not [name for name, process in below.items() if process.is_running()]
    assert not any(folder.exists() for folder in folders)
