"""Send thousands of almost right requests through the door and see that the server takes no harm: `make fuzz`.

Every request must be answered or refused with a reason within its deadline. An answer that speaks of the server's
own failure (INTERNAL, UNKNOWN) counts as an internal error, a missing one as a hang, a server that has gone or is
not ready as a crash. The last line is JSON; the exit status is 1 where one of them is not 0.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from reverie_client import ReverieError, failures, proxies
from reverie_client.transport import STREAM_METHOD
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtests.fuzz.cases import Case, case
from loadtests.target import Target, target
from serving.door.opening import opening
from serving.security import Security
from serving.triton.address import ListenAddress
from serving.triton.server import PROJECT, TritonServer

DEADLINE_S = 60.0
SENDERS = 6
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}
_TRITON_S_REFUSALS = ("max allowed is",)
"""Parts of clear refusals that Triton gives the status INTERNAL."""
_SIGNS_OF_FAILURE = ("Traceback", "Error:", "Exception", "Stub process", "INTERNAL", "core dumped")


@dataclass
class Findings:
    """What happened to the requests; `add` may be called from any thread.

    Attributes:
        outcomes: how many had which status.
        failures: what each harmful request was answered, by its number.
    """

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: dict[int, str] = field(default_factory=dict)
    hangs: int = 0
    crashes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, number: int, outcome: str, failure: str = "") -> None:
        """Record the answer to a request; `failure` says why it is one."""
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "DEADLINE_EXCEEDED":
                self.hangs += 1
            if failure:
                self.failures[number] = failure
                if len(self.failures) <= 20:
                    print(f"case {number}: {failure[:300]}", file=sys.stderr)

    @property
    def internal_errors(self) -> int:
        return len(self.failures) - self.hangs

    @property
    def is_clean(self) -> bool:
        return not (self.failures or self.crashes)


class Sender:
    """Sends cases over one connection, as they are: without the client's checks."""

    def __init__(self, address: str):
        self._channel = grpc.insecure_channel(
            address, [("grpc.max_send_message_length", -1), *proxies.channel_options(address)]
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._stream = self._channel.unary_stream(
            STREAM_METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, sent: Case) -> tuple[str, str]:
        """Send a case; return its outcome, and what is wrong if it is a failure."""
        options = {
            "timeout": DEADLINE_S if sent.patience is None else sent.patience,
            "metadata": sent.metadata,
            "compression": grpc.Compression.Gzip if sent.is_packed else None,
        }
        try:
            if sent.streams:
                return self._read(self._stream(sent.request, **options))
            self._stub.ModelInfer(sent.request, **options)
            return "OK", ""
        except grpc.RpcError as error:
            told = failures.of_call(error)
            if sent.patience is not None and told.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "left", ""
            return told.code.name, _failure_in(told)

    def is_ready(self) -> bool:
        """Say whether the server answers and has all its models."""
        try:
            return self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=DEADLINE_S).ready
        except grpc.RpcError:
            return False

    @staticmethod
    def _read(replies: Iterable[service_pb2.ModelStreamInferResponse]) -> tuple[str, str]:
        outcome, failure = "OK", ""
        for reply in replies:
            if reply.error_message:
                told = failures.in_band(reply.error_message)
                outcome, failure = f"in band {told.code.name}", _failure_in(told)
        return outcome, failure


def _failure_in(error: ReverieError) -> str:
    """`error` as text if it is the server's failure; Triton refuses streams without a status, so words decide there."""
    if error.code in _REFUSALS or any(part in error.message for part in _TRITON_S_REFUSALS):
        return ""
    is_triton_s_own = error.code is grpc.StatusCode.UNKNOWN
    if is_triton_s_own and not any(sign in error.message for sign in _SIGNS_OF_FAILURE):
        return ""
    return str(error)


def fuzz(server: Target, numbers: Iterable[int], seed: int, senders: int = SENDERS) -> Findings:
    """Send the cases of these numbers, as many at a time as there are `senders`."""
    findings, waiting, lock = Findings(), iter(numbers), threading.Lock()

    def next_numbers() -> Iterator[int]:
        while True:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            yield number

    def work() -> None:
        with Sender(server.address) as sender:
            for number in next_numbers():
                findings.add(number, *sender.send(case(seed, number)))

    with ThreadPoolExecutor(senders) as pool:
        for worker in [pool.submit(work) for _ in range(senders)]:
            worker.result()
    with Sender(server.address) as sender:
        findings.crashes += not sender.is_ready()
    return findings


@contextlib.contextmanager
def behind_a_door(address: str, out: Path) -> Iterator[Target]:
    """Yield the server at `address`, else one of our own with its door, which logs into `out`.

    Raises:
        ServerError: none is ready within a minute, or none can be started.
        LookupError: Triton ended meanwhile.
    """
    if address:
        with target(address, out) as running:
            yield running
        return
    behind = opening(ListenAddress.free(), Security(), log=out / "door.log")
    log = out / "triton.log"
    with (
        behind.door,
        TritonServer(PROJECT / "model_repository", behind.address, security=behind.security, log=log) as server,
    ):
        yield Target(str(behind.door.settings.grpc), server.address.metrics, server.pid)
        if server.poll() is not None:
            raise LookupError(f"Triton ended with status {server.poll()}; see {log}")


def main(
    requests: Annotated[int, typer.Option(min=0, help="Send so many requests.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Choose the cases. The same seed gives the same cases.")] = 1,
    only: Annotated[int | None, typer.Option(min=0, help="Print the case of this number, and send it alone.")] = None,
    address: Annotated[str, typer.Option(help="gRPC address of a running server. Empty starts one.")] = "",
) -> None:
    """Send thousands of almost right requests through the door, and check that the server takes no harm.

    The last line of stdout is JSON. The exit status is 1 if the server crashed, did not answer, or failed by itself.
    """
    out = Path("out") / "fuzz"
    out.mkdir(parents=True, exist_ok=True)
    if only is not None:
        typer.echo(str(case(seed, only))[:4_000], err=True)
    started = time.monotonic()
    with behind_a_door(address, out) as server:
        findings = fuzz(server, range(requests) if only is None else [only], seed)
    seconds = round(time.monotonic() - started, 1)
    typer.echo(json.dumps(to_summary(findings) | {"seed": seed, "seconds": seconds}))
    raise typer.Exit(0 if findings.is_clean else 1)


def to_summary(findings: Findings) -> dict[str, Any]:
    """Return what the JSON line says of `findings`."""
    return {
        "fuzz_requests": sum(findings.outcomes.values()),
        "crashes": findings.crashes,
        "hangs": findings.hangs,
        "internal_errors": findings.internal_errors,
        "outcomes": dict(findings.outcomes.most_common()),
        "excluded": [],
        "failing_cases": sorted(findings.failures)[:50],
    }


if __name__ == "__main__":
    typer.run(main)
