"""What can go wrong around a server. Each fault is a context: it holds inside, and is undone or over outside."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reverie_client import Client, ReverieError, hosts

from imaging import images
from loadtests.faults.probe_clients import DEADLINE_S, WATCHED
from loadtests.faults.proxy import FaultProxy
from loadtests.faults.served import Served, kill

NOT_TRIED = {"clock_jump": "would set the clock of the whole machine"}
_HALF_OPEN = 300
_DESCRIPTORS_LEFT = 8
_SLOW_READERS = 16
_KILLERS = 4
"""So few that the streams which have not been missed yet leave places free: the fault is not overload."""
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HALF_A_FRAME = _HTTP2_PREFACE + b"\x00\x00\x40\x01"
"""The preface and the beginning of a HEADERS frame."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        inject: the context in which the fault holds.
        unaffected: endpoints that must go on answering.
        holds_s: how long it lasts.
        needs_isolation: it would harm this machine if the server had no mounts of its own.
        ends: how many processes of models end; Triton keeps something of each until it is started again, which
            `serving.triton.supervisor` sees to.
    """

    name: str
    inject: Callable[[Served], AbstractContextManager[None]]
    unaffected: tuple[str, ...] = ()
    holds_s: float = 2.0
    needs_isolation: bool = False
    ends: int = 0


def door_part_killed(program: str) -> Callable[[Served], AbstractContextManager[None]]:
    """Kill a process of the door with `kill -9`: the one with `program` on its command line."""

    @contextmanager
    def injected(served: Served) -> Iterator[None]:
        kill(served.children_with(program))
        yield

    return injected


@contextmanager
def door_configuration_broken(served: Served) -> Iterator[None]:
    """Put half of each of Envoy's files in the place of the whole; it is to keep what it has."""
    folder = served.door_folder
    whole = {file: file.read_bytes() for file in folder.glob("*.json") if file.name != "bootstrap.json"}

    def put(contents: dict[Path, bytes]) -> None:
        for file, content in contents.items():
            unfinished = folder / ".new"
            unfinished.write_bytes(content)
            unfinished.replace(file)

    put({file: content[: len(content) // 2] for file, content in whole.items()})
    try:
        yield
    finally:
        put(whole)


@contextmanager
def triton_killed(served: Served) -> Iterator[None]:
    """Kill the server with `kill -9`."""
    kill([served.triton])
    yield


@contextmanager
def triton_stopped(served: Served) -> Iterator[None]:
    """Stop the server for a while, as a debugger or a starved machine does."""
    triton = served.triton
    kill([triton], signal.SIGSTOP)
    try:
        yield
    finally:
        kill([triton], signal.SIGCONT)


def process_killed(model: str) -> Callable[[Served], AbstractContextManager[None]]:
    """Kill a Python model's process with `kill -9`."""

    @contextmanager
    def injected(served: Served) -> Iterator[None]:
        kill(served.model_processes(model)[:1])
        yield

    return injected


def process_stopped(model: str, goes_on: bool) -> Callable[[Served], AbstractContextManager[None]]:
    """Stop a Python model's process, for a while or for good."""

    @contextmanager
    def injected(served: Served) -> Iterator[None]:
        stopped = served.model_processes(model)[:1]
        kill(stopped, signal.SIGSTOP)
        yield
        if goes_on:
            kill(stopped, signal.SIGCONT)

    return injected


def clients_killed(count: int) -> Callable[[Served], AbstractContextManager[None]]:
    """Let callers vanish in the middle of a stream, one after another and some at once."""

    @contextmanager
    def injected(served: Served) -> Iterator[None]:
        with ThreadPoolExecutor(_KILLERS) as pool:
            list(pool.map(lambda _: _vanish(served.address), range(count)))
        yield

    return injected


def _vanish(address: str) -> None:
    """Read the first message of a long text, then let the connection be reset."""
    with (
        FaultProxy(address) as proxy,
        Client(proxy.address, timeout=30) as client,
        contextlib.suppress(ReverieError),
        client.generate("this movie", max_tokens=200, temperature=1.0) as stream,
    ):
        next(iter(stream))
        proxy.reset()


@contextmanager
def slow_readers(served: Served) -> Iterator[None]:
    """Let callers ask for pictures that they do not take from the network."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    data = images.encode(noise)

    def ask(proxy: FaultProxy) -> None:
        with Client(proxy.address, timeout=60) as client, contextlib.suppress(ReverieError):
            client.stylize(data, format="png")

    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(served.address)) for _ in range(_SLOW_READERS)]
        threads = [threading.Thread(target=ask, args=(proxy,), daemon=True) for proxy in proxies]
        for proxy, thread in zip(proxies, threads, strict=True):
            proxy.stall()
            thread.start()
        yield
        for proxy in proxies:
            proxy.reset()
    for thread in threads:
        thread.join()


@contextmanager
def half_open(served: Served) -> Iterator[None]:
    """Open connections that say nothing, or stop in the middle of a frame."""
    with contextlib.ExitStack() as stack:
        for i in range(_HALF_OPEN):
            connection = stack.enter_context(_connection(served.address))
            connection.sendall((b"", _HTTP2_PREFACE, _HALF_A_FRAME)[i % 3])
        yield


@contextmanager
def descriptors_exhausted(served: Served) -> Iterator[None]:
    """Let the server open no more descriptors: a new client waits for one, as the last one here finds out."""
    triton = served.triton
    limits = resource.prlimit(triton, resource.RLIMIT_NOFILE)
    limit = served.resources().descriptors + _DESCRIPTORS_LEFT
    resource.prlimit(triton, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(2 * _DESCRIPTORS_LEFT):
                stack.enter_context(_connection(served.address))
            with FaultProxy(served.address) as proxy, Client(proxy.address, timeout=DEADLINE_S / 4) as newcomer:
                if newcomer.admin.live():
                    raise RuntimeError(f"a newcomer was let in; the limit of {limit} descriptors does not hold")
            yield
    finally:
        resource.prlimit(triton, resource.RLIMIT_NOFILE, limits)


def log_disk_full(served: Served) -> AbstractContextManager[None]:
    """Fill the disk of the server's log."""
    return _full(served.inside(str(served.repository.with_name("log"))))


@contextmanager
def shared_memory_full(served: Served) -> Iterator[None]:
    """Fill the shared memory, so that Triton has no room for a picture on its way to a model's process."""
    with _full(served.inside("/dev/shm")), Client(served.address, timeout=DEADLINE_S) as client:
        large = images.encode(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
        with contextlib.suppress(ReverieError):
            client.stylize(large)
        yield


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fill the file system of `folder` to the last byte."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


def graph_replaced(data: bytes | None) -> Callable[[Served], AbstractContextManager[None]]:
    """Overwrite the graph that the server runs on disk, or delete it if `data` is None."""

    @contextmanager
    def injected(served: Served) -> Iterator[None]:
        graphs = list((served.repository / "style").glob("*/model.onnx"))
        originals = [graph.read_bytes() for graph in graphs]
        for graph in graphs:
            graph.unlink()
            if data is not None:
                graph.write_bytes(data)
        try:
            yield
        finally:
            for graph, original in zip(graphs, originals, strict=True):
                graph.write_bytes(original)

    return injected


def _connection(address: str) -> socket.socket:
    return socket.create_connection(hosts.split(address), timeout=10)


def _all_but(*affected: str) -> tuple[str, ...]:
    return tuple(e for e in WATCHED if e not in affected)


def faults(vanishing: int) -> list[Fault]:
    """Return all faults; those that leave Triton running come first.

    Args:
        vanishing: how many callers vanish in the middle of a stream.
    """
    return [
        Fault("clients_killed", clients_killed(vanishing), unaffected=WATCHED),
        Fault("slow_readers", slow_readers, unaffected=WATCHED, holds_s=5),
        Fault("half_open_connections", half_open, unaffected=WATCHED),
        Fault("descriptors_exhausted", descriptors_exhausted, unaffected=WATCHED),
        Fault("graph_corrupted", graph_replaced(b"not a graph"), unaffected=WATCHED),
        Fault("graph_deleted", graph_replaced(None), unaffected=WATCHED),
        Fault("door_configuration_broken", door_configuration_broken, unaffected=WATCHED),
        Fault("envoy_killed", door_part_killed("/envoy")),
        Fault("guard_killed", door_part_killed("serving.door.guard")),
        Fault("log_disk_full", log_disk_full, unaffected=WATCHED, needs_isolation=True),
        *(
            Fault(f"process_of_{model}_killed", process_killed(model), unaffected=others, ends=1)
            for model, others in {
                "generate": _all_but("generate"),
                "score": _all_but("score"),
                "stylize": _all_but("stylize"),
                "style": _all_but("style", "stylize"),
            }.items()
        ),
        Fault(
            "process_stopped_for_3_s", process_stopped("stylize", goes_on=True), _all_but("stylize"), holds_s=3, ends=1
        ),
        Fault("process_stopped_for_good", process_stopped("stylize", goes_on=False), _all_but("stylize"), ends=1),
        Fault("shared_memory_full", shared_memory_full, needs_isolation=True),
        Fault("triton_stopped_for_3_s", triton_stopped, holds_s=3),
        Fault("triton_killed", triton_killed),
    ]
