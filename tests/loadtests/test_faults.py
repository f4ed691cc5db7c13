"""A short form of `make faults`, and its parts."""

from __future__ import annotations

import socket
import threading

import pytest
import typer
from typer.testing import CliRunner

from loadtests.calls import Call
from loadtests.faults.faults import Fault, faults
from loadtests.faults.probe_clients import DEADLINE_S, ProbeClients, failures
from loadtests.faults.proxy import FaultProxy
from loadtests.faults.run import choose, main, run, violations


@pytest.mark.service
def test_vanishing_callers_and_a_killed_process_are_survived_without_a_trace(tmp_path):
    # Models that nobody watches here import TensorFlow.
    chosen = choose(faults(vanishing=12), ["clients_killed", "process_of_score_killed"])
    found = run(chosen, tmp_path, without=("deepdream", "style_transfer"))
    assert (found["faults_tried"], found["faults_survived"], found["leaks"]) == (2, 2, [])
    assert set(found["faults"]["process_of_score_killed"]["failed"]) <= {"score"}


def test_an_unknown_fault_ends_the_command_and_is_named_with_what_there_is():
    with pytest.raises(typer.BadParameter, match=r"'flood' is not a fault; accepted: clients_killed, "):
        choose(faults(1), ["triton_killed", "flood"])
    command = typer.Typer()
    command.command()(main)
    assert CliRunner().invoke(command, ["--only", "flood"]).exit_code == 2


def test_every_fault_has_a_name_of_its_own():
    names = [fault.name for fault in faults(1)]
    assert len(set(names)) == len(names) == 19


def call(endpoint="score", began=0.0, seconds=1.0, error=""):
    return Call(endpoint, began, began, began + seconds, error=error)


@pytest.mark.parametrize(
    ("seen", "recovered", "said"),
    [
        (call(), 1.0, []),
        (call(error="UNAVAILABLE: the model is loading"), 1.0, []),
        (call("style", error="UNAVAILABLE: gone"), 1.0, ["style should be unaffected: UNAVAILABLE: gone"]),
        (call(error="UNKNOWN: "), 1.0, ["score ended after 1.0 s: UNKNOWN: "]),
        (call(seconds=DEADLINE_S + 3), 1.0, ["score ended after 13.0 s: "]),
        (call(), None, ["not well 60 s after"]),
    ],
)
def test_what_is_not_survived_is_said(seen, recovered, said):
    assert violations(Fault("f", lambda _: pytest.fail(), unaffected=("style",)), [seen], recovered) == said


def test_failures_are_counted_by_endpoint_and_status():
    seen = [call("a"), call("a", error="INTERNAL: x"), call("b", error="INTERNAL: x"), call("a", error="INTERNAL: y")]
    assert failures(seen) == {"a": {"INTERNAL": 2}, "b": {"INTERNAL": 1}}


def test_recovery_is_three_good_answers_in_a_row_of_every_endpoint():
    probes = ProbeClients("127.0.0.1:1", ("a", "b"))
    probes.seen += [call(name, 1e9 + i) for name, count in (("a", 3), ("b", 2)) for i in range(count)]
    assert probes.wait_for_recovery(0) is None
    probes.seen.append(call("b", 1e9 + 9))
    assert probes.wait_for_recovery(0) > 0
    probes.seen.append(call("a", 1e9 + 10, error="UNAVAILABLE: gone"))
    assert probes.wait_for_recovery(0) is None


@pytest.fixture
def echo():
    """A server that sends back what it gets; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                    while data := connection.recv(1024):
                        connection.sendall(data)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_fault_proxy_ends_on_one_side_what_the_other_ends_and_lets_nobody_in_afterwards():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        with FaultProxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
            client = connect(proxy.address)
            client.sendall(b"last")
            client.close()
            server, _ = listener.accept()
            assert [server.recv(10), server.recv(10)] == [b"last", b""]
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.address)


def connect(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_a_fault_proxy_relays_until_it_is_stalled_or_reset(echo):
    with FaultProxy(echo) as proxy, connect(proxy.address) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.stall()
        client.sendall(b"two")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        proxy.reset()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            while client.recv(10):
                pass
