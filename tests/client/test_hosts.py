"""Which machine a host name means."""

from __future__ import annotations

import socket

import pytest
from reverie_client import Client, ReverieError, hosts

from loadtests.faults.proxy import FaultProxy
from serving.triton.address import ListenAddress


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "127.1", "localhost", "LocalHost.", "::1", "[::1]", "::ffff:127.0.0.1"]
)
def test_only_this_machine_reaches_a_loopback_address(host):
    assert hosts.is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "0", "::", "[::]", "192.168.1.5", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "example.org", "machine",
     "localhost.example.org", "127.0.0.1.example.org", "", " ", "*", "日本"],
)  # fmt: skip
def test_others_may_reach_every_other_host(host):
    assert not hosts.is_loopback(host)


def test_all_spellings_of_this_machine_have_one_name_and_a_further_loopback_address_its_own():
    spellings = ("localhost", "LOCALHOST", "127.0.0.1", "127.1", "0.0.0.0", "::", "::ffff:127.0.0.1")
    assert {hosts.local_name(host) for host in spellings} == {"localhost"}
    assert hosts.local_name("127.0.0.2") == "127.0.0.2"
    assert hosts.local_name("[::1]") == hosts.local_name("0:0::1") == "::1"
    assert [hosts.local_name(host) for host in ("192.168.1.5", "example.org", "")] == [None] * 3


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("localhost:8001", ("localhost", 8001)),
        ("[::1]:8001", ("::1", 8001)),
        ("dns:///localhost:1", ("localhost", 1)),
        ("dns:localhost:1", ("localhost", 1)),
        ("dns://8.8.8.8/localhost:1", ("localhost", 1)),
        ("ipv4:127.0.0.1:1", ("127.0.0.1", 1)),
        ("ipv6:[::1]:1", ("::1", 1)),
        ("unix:/run/socket", None),
        ("localhost", None),
        ("", None),
    ],
)
def test_a_grpc_target_is_split_into_host_and_port(target, found):
    assert hosts.split_target(target) == found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "fe80::1%eth0", "::", "2001:db8::1"])
def test_what_is_joined_is_split_into_the_same_host_and_port(host):
    assert hosts.split(hosts.join(host, 8001)) == (host.strip("[]"), 8001)


@pytest.mark.parametrize(
    "address", ["::1", "::1:8001", "localhost", "localhost:", ":8001", "[::1]", "a:b", "a:99999", ""]
)
def test_what_is_no_host_and_port_is_refused_with_what_is(address):
    with pytest.raises(ValueError, match=r"is no address; accepted: HOST:PORT, as in .* \[::1\]:8001"):
        hosts.split(address)


@pytest.mark.parametrize("address", ["::1", "::1:8001", "2001:db8::1", "::"])
def test_a_client_does_not_guess_where_an_address_ends_and_its_port_begins(address):
    with pytest.raises(ReverieError, match=r"INVALID_ARGUMENT: address: .*in brackets, as in \[::1\]:8001"):
        Client(address)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ports_of_an_ipv6_host_are_found_and_a_relay_reaches_one():
    address = ListenAddress.free("::1")
    assert address.grpc == f"[::1]:{address.grpc_port}"
    assert address.http == f"http://[::1]:{address.http_port}"
    with (
        socket.create_server(("::1", address.grpc_port), family=socket.AF_INET6) as server,
        FaultProxy(address.grpc) as proxy,
    ):
        server.settimeout(5)
        with socket.create_connection(hosts.split(proxy.address)) as client, server.accept()[0] as accepted:
            client.sendall(b"here")
            assert accepted.recv(4) == b"here"
