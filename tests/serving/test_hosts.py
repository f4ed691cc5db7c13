"""Which machine a host name means."""

from __future__ import annotations

import pytest

from serving import hosts


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
