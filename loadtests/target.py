"""The server under load: a running one, or one started for the load; and whoever sends to it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reverie_client import Client

from loadtests.arrivals import Arrival
from loadtests.calls import Call, make_call
from loadtests.endpoints import ENDPOINTS, Caller, Endpoint, make_pictures
from serving.security import Security
from serving.service import Service, started
from serving.triton.address import ListenAddress
from serving.triton.errors import ServerError
from serving.triton.server import PROJECT

READY_WITHIN_S = 60.0
WARM_UP_TIMEOUT_S = 300.0
"""The first dream traces its TensorFlow functions and reads its weights."""


@dataclass(frozen=True)
class Target:
    """A server that is ready.

    Attributes:
        address: host and port of its gRPC endpoint.
        metrics: the address of its metrics; empty where it is not known.
        pid: of its process, whose session holds those of its models; None for a server elsewhere.
        cores: that it has; None for a server elsewhere.
    """

    address: str
    metrics: str = ""
    pid: int | None = None
    cores: int | None = None


@contextlib.contextmanager
def target(
    address: str, out: Path, metrics: str = "", pid: int | None = None, apart: bool = False, door: bool = True
) -> Iterator[Target]:
    """Yield a server that is ready: the given one, or one that lives as long as this context and logs into `out`.

    Args:
        apart: give a server that is started here the first half of this process's cores, and this process the rest,
            so that neither takes the other's; with one core they share it.
        door: put a door before a server that is started here, as callers of `reverie serve` meet it.

    Raises:
        ServerError: none is ready within a minute, or none can be started.
    """
    if address:
        _wait_until_ready(address)
        yield Target(address, metrics, pid)
        return
    log = out / "triton.log"
    say(f"starting a server; its output goes to {log}")
    with contextlib.ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))
        half = len(cores) // 2 if apart else 0
        theirs, ours = (cores[:half], cores[half:]) if half else (cores, cores)
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, theirs)  # What is started inherits it.
        service = Service(
            PROJECT / "model_repository", ListenAddress.free(), Security(), has_door=door, has_gateway=False
        )
        running = stack.enter_context(started(service, log=log))
        os.sched_setaffinity(0, ours)
        say(f"the server has {len(theirs)} of {len(cores)} cores, the generator {len(ours)}")
        yield Target(running.listen.grpc, running.listen.metrics, running.server.pid, len(theirs))


def warm_up(address: str, endpoints: Iterable[Endpoint] = tuple(ENDPOINTS.values())) -> dict[str, float]:
    """Send two unrecorded requests to each endpoint; a failure is told, and left to the load to record.

    Returns:
        How long each second request took, in seconds: an idle server's answer.
    """
    make_pictures()
    idle = {}
    with Caller(address, timeout=WARM_UP_TIMEOUT_S) as client:
        for endpoint in endpoints:
            calls = [make_call(endpoint, client, 0) for _ in range(2)]
            for error in {c.error for c in calls if c.error}:
                say(f"warm-up of {endpoint.name} failed: {error}")
            idle[endpoint.name] = calls[1].milliseconds / 1000
            say(f"warmed up {endpoint.name}: {calls[0].milliseconds / 1000:.2f} s, then {idle[endpoint.name]:.2f} s")
    return idle


@contextlib.contextmanager
def sender(
    address: str, deadline_s: float, endpoints: Mapping[str, Endpoint] = ENDPOINTS
) -> Iterator[Callable[[Arrival, float], Call]]:
    """Yield what sends arrivals of an open loop to `address`, to one of `endpoints` by name.

    The connection lasts as long as this context.
    """
    with Caller(address, timeout=deadline_s) as client:

        def send(arrival: Arrival, due: float) -> Call:
            return make_call(endpoints[arrival.endpoint], client, arrival.seed, due)

        yield send


def say(line: str) -> None:
    """Tell the person who waits; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with Client(address) as client:
        while not client.ready():
            if time.monotonic() > deadline:
                raise ServerError(f"no server was ready at {address} within {READY_WITHIN_S:.0f} s")
            time.sleep(0.5)
