"""This machine is reached directly, whatever the environment says of proxies; others are reached as it says."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from reverie_client import Client, hosts, proxies
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtests.server_metrics import Poller
from registry.bucket import Bucket, BucketError

SCHEMES = ("http", "https", "all", "grpc", "ftp")
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(params=["lower", "upper"])
def proxied(request, monkeypatch) -> None:
    """Every variable of a proxy is set, to one that takes no connections."""
    for scheme in SCHEMES:
        monkeypatch.setenv(getattr(f"{scheme}_proxy", request.param)(), NOBODY)


class Live(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a gRPC server on every address of this machine."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Live(), server)
    found = server.add_insecure_port("[::]:0") or server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield found
    server.stop(None)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "127.1.2.3", "localhost", "LOCALHOST", "0.0.0.0", "dns:///localhost",
             "dns:127.0.0.1", "ipv4:127.0.0.1", "[::1]", "ipv6:[::1]"],
)  # fmt: skip
def test_a_client_reaches_this_machine_without_the_proxy(proxied, port, host):
    if "::1" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Client(f"{host}:{port}") as client:
        client.admin.check_live()


@pytest.mark.tensorflow
def test_so_does_the_fuzzer(proxied, port):
    from loadtests.fuzz.run import Sender

    with Sender(f"127.0.0.1:{port}") as sender:
        assert sender.is_ready()


class Proxy(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.server.asked.append(self.path)
        self.send_error(502)

    do_GET = do_CONNECT

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(monkeypatch) -> Iterator[list[str]]:
    """What a proxy that the environment names was asked for; it gives nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for scheme in SCHEMES:
            monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        yield server.asked
        server.shutdown()


def test_another_machine_is_reached_through_the_proxy_and_one_in_no_proxy_directly(proxy, monkeypatch):
    with Client("reverie.invalid:8001") as client:
        assert not client.admin.live()
    with pytest.raises(OSError, match="502"):
        proxies.open_url("http://reverie.invalid/metrics", timeout=5)
    assert proxy == ["reverie.invalid:8001", "http://reverie.invalid/metrics"]
    monkeypatch.setenv("no_proxy", "reverie.invalid")
    with Client("reverie.invalid:8001") as client:
        assert not client.admin.live()
    with pytest.raises(OSError, match=r"not known|resolution|No address"):
        proxies.open_url("http://reverie.invalid/metrics", timeout=5)
    assert len(proxy) == 2


@pytest.fixture
def page() -> Iterator[int]:
    """The port of an HTTP server that answers everything with a 200."""

    class Page(Proxy):
        def do_GET(self):
            self.send_response(200)
            self.send_header("ETag", "tag")
            self.end_headers()
            self.wfile.write(b"page 1\n")

    with http.server.ThreadingHTTPServer(("", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0"])
def test_a_url_of_this_machine_is_read_without_the_proxy(proxied, page, host):
    url = f"http://{host}:{page}/metrics"
    with closing(proxies.open_url(url, timeout=5)) as answer:
        assert answer.read() == b"page 1\n"
    with closing(proxies.open_url(urllib.request.Request(url), timeout=5)) as answer:
        assert answer.status == 200
    poller = Poller(url)
    poller.poll()
    assert len(poller.polls) == 1


def test_a_storage_on_this_machine_is_reached_without_the_proxy(proxied, page, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert Bucket.at("s3://models", f"http://127.0.0.1:{page}").read("key") == (b"page 1\n", "tag")


def test_a_storage_elsewhere_is_reached_through_the_proxy(proxy, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = Bucket.at("s3://models", "http://storage.invalid:9000")
    with pytest.raises(BucketError):
        bucket.read("key")
    assert proxy[0].startswith("http://storage.invalid:9000/")


@pytest.mark.parametrize(
    ("target", "is_local"),
    [
        ("localhost", True), ("localhost:1", True), ("ipv4:127.0.0.1:1,127.0.0.2:2", True), ("dns:///[::1]", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False), ("example.org:1", False), ("localhost.example.org:1", False),
        ("dns://8.8.8.8/localhost:1", True), ("10.0.0.1:1", False), ("", False),
    ],
)  # fmt: skip
def test_a_target_is_of_this_machine_if_all_its_addresses_are(target, is_local):
    assert hosts.is_this_machine(target) is is_local


def test_hosts_are_added_to_what_the_environment_keeps_from_proxies_already():
    environment = {"no_proxy": "example.org, localhost", "no_grpc_proxy": ""}
    proxies.bypass(["localhost", "::1"], environment)
    assert environment == {
        "no_proxy": "example.org,localhost,::1",
        "no_grpc_proxy": "localhost,::1",
        "NO_PROXY": "localhost,::1",
    }
