"""TLS and keys, on a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time

import grpc
import pytest
from tritonclient.grpc import service_pb2

from serving.client import Client, ReverieError
from serving.security import Security, SecurityError, Tls
from serving.triton import processes, supervisor
from serving.triton.server import PROJECT, TritonServer


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured") / "model_repository"
    for model in ("style", "stylize"):
        shutil.copytree(PROJECT / "model_repository" / model, folder / model)
    return folder


def signed(folder, name, authority=None):
    """A certificate for this machine, signed by `authority` or by itself: its file and its key's."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    if authority:
        command += [
            "-CA",
            str(authority[0]),
            "-CAkey",
            str(authority[1]),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    # Certificates that were committed would run out, and no package of ours makes any.
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates and is not here")
    folder = tmp_path_factory.mktemp("certificates")
    authority = signed(folder, "authority")
    return {
        "authority": authority,
        **{n: signed(folder, n, authority) for n in ("server", "client")},
        "stranger": signed(folder, "stranger"),
    }


def refusal(call):
    with pytest.raises(ReverieError) as caught:
        call()
    return caught.value


def test_keys_open_what_they_are_for_and_nothing_else(repository, photo, tmp_path):
    security = Security(api_key="for callers", control_key="for publishers")
    with TritonServer(repository, security=security, log=tmp_path / "log") as server:
        address = server.address.grpc
        with Client(address, api_key="for callers") as caller, Client(address, api_key="guessed") as stranger:
            assert stranger.ready()  # Probes need no key.
            assert caller.stylize(photo)
            for call in (lambda: stranger.stylize(photo), stranger.styles, lambda: stranger.labels("style")):
                assert "restricted" in refusal(call).message
            assert "restricted" in refusal(caller.models).message
            region = service_pb2.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8)
            with pytest.raises(grpc.RpcError, match="restricted"):
                caller._stub.SystemSharedMemoryRegister(region, timeout=10, metadata=caller._metadata)
        with Client(address, api_key="for callers", control_key="for publishers") as publisher:
            assert {m.name for m in publisher.models()} == {"style", "stylize"}
            publisher.load("stylize")
        _is_supervised(server)


def _is_supervised(server):
    """The supervisor has the keys too: it loads a killed model again."""
    stop, watching, said = threading.Event(), threading.Event(), []
    arguments = (server, stop, said.append, watching.set)
    watcher = threading.Thread(target=supervisor.supervise, args=arguments, daemon=True)
    _wait_until(lambda: len(_processes_of("stylize", server)) == 1)  # The one before the reload may still be ending.
    watcher.start()
    try:
        assert watching.wait(30)
        os.kill(*_processes_of("stylize", server), signal.SIGKILL)
        _wait_until(lambda: said and _processes_of("stylize", server))
    finally:
        stop.set()
        watcher.join()
    assert said == ["a process of model stylize ended; loading it again"]


def _processes_of(model, server):
    living = [p for p in processes.living() if p.parent == server.pid]
    return [p.pid for p in living if f"/{model}/" in " ".join(p.arguments)]


def _wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_with_tls_plain_callers_and_strangers_are_not_let_in(repository, certificates, photo, tmp_path):
    authority = certificates["authority"][0]
    tls = Tls(authority, *certificates["server"])
    with TritonServer(repository, security=Security(tls), log=tmp_path / "log") as server:
        address = server.address.grpc
        with Client(address, tls=Tls(authority, *certificates["client"])) as friend:
            assert friend.stylize(photo)
        for own in ((), certificates["stranger"]):
            with Client(address, timeout=5, tls=Tls(authority, *own)) as stranger:
                assert not stranger.ready()
        with Client(address, timeout=5) as plain:
            assert not plain.ready()
        with Client(address, timeout=5, tls=Tls(certificates["stranger"][0], *certificates["client"])) as distrustful:
            assert not distrustful.ready()


def test_a_client_finds_its_certificates_and_key_in_the_environment(monkeypatch, certificates):
    monkeypatch.setenv("REVERIE_TLS_CA", str(certificates["authority"][0]))
    monkeypatch.setenv("REVERIE_API_KEY", "for callers")
    assert Tls.from_environment() == Tls(certificates["authority"][0])
    with Client() as client:
        assert client._metadata == (("triton-grpc-protocol-reverie-api-key", "for callers"),)


def test_files_that_are_not_there_and_halves_of_pairs_are_named(tmp_path, certificates):
    with pytest.raises(SecurityError, match=r"absent\.pem is no file"):
        Tls(tmp_path / "absent.pem")
    with pytest.raises(SecurityError, match="both together, or neither"):
        Tls(None, certificates["server"][0])
    with pytest.raises(SecurityError, match="needs a certificate"):
        Security(Tls(certificates["authority"][0]))
