"""What the door costs: the same calls at Triton itself and through the door in front of it, in turns. `make bench-door`.

- a unary call: `score` of a short text, the median of each;
- 32 streams at a time: `generate`, greedy, so that both make the same tokens; the median of the rounds' times;
- `stylize` of a small photograph, file to file;
- the door's own memory, and its time from nothing to listening.

The last line of stdout is JSON. What speaks HTTP is null where no gateway is.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import typer
from reverie_client import Client

from benchmarks.timing import say, seconds_of
from serving.door.door import Door
from serving.door.opening import opening
from serving.security import Security
from serving.triton.address import ListenAddress
from serving.triton.server import PROJECT, TritonServer

STREAMS, TOKENS = 32, 100
PHOTO = PROJECT / "serving" / "demo" / "pictures" / "cat.jpg"


def in_turns(call: Callable[[Client], object], direct: Client, through: Client, turns: int) -> tuple[float, float]:
    """Return the median seconds of a call without the door and with it."""
    call(direct), call(through)
    times = [(seconds_of(partial(call, direct)), seconds_of(partial(call, through))) for _ in range(turns)]
    without, with_door = zip(*times, strict=True)
    return statistics.median(without), statistics.median(with_door)


def make_text(client: Client, prompt: str) -> None:
    """The same for the same prompt."""
    for _ in client.generate(prompt, max_tokens=TOKENS, temperature=0.0):
        pass


def make_texts(client: Client) -> None:
    """`STREAMS` texts at a time."""
    with ThreadPoolExecutor(STREAMS) as pool:
        for number in range(STREAMS):
            pool.submit(make_text, client, f"Movie {number}")


def memory_mib(door: Door) -> dict[str, float]:
    """Return the resident memory of the door's two processes."""
    parts = {"envoy": door.envoy.pid, "guard": door.guard.pid}
    return {name: round(psutil.Process(pid).memory_info().rss / 2**20, 1) for name, pid in parts.items()}


def percent_more(times: tuple[float, float]) -> float:
    """Return by how much the second is longer."""
    return round(100 * (times[1] / times[0] - 1), 2)


def measure(direct: Client, through: Client, calls: int, rounds: int) -> dict[str, float | None]:
    """Return what the calls cost without and with the door."""
    photo = PHOTO.read_bytes()
    say("unary calls")
    unary = in_turns(lambda client: client.score("This movie was great"), direct, through, calls)
    say(f"{STREAMS} streams at a time")
    streams = in_turns(make_texts, direct, through, rounds)
    say("stylize")
    stylize = in_turns(lambda client: client.stylize(photo), direct, through, max(5, calls // 20))
    return {
        "unary_overhead_ms_p50": round(1000 * (unary[1] - unary[0]), 3),
        "unary_ms_p50": round(1000 * unary[0], 3),
        # Of tokens a second: the same texts take so much longer.
        "stream_overhead_percent": round(100 * (1 - streams[0] / streams[1]), 2),
        "stylize_overhead_percent": percent_more(stylize),
        "grpc_stylize_ms": round(1000 * stylize[1], 2),
        "http_stylize_ms": None,
    }


def main(
    calls: Annotated[int, typer.Option(min=1, help="Unary calls each way.")] = 600,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of streams each way.")] = 7,
) -> None:
    """Measure what the door costs, beside the same Triton without it."""
    with tempfile.TemporaryDirectory() as folder:
        behind = opening(ListenAddress.free(), Security(), log=Path(folder) / "door.log")
        log = Path(folder) / "triton.log"
        with TritonServer(PROJECT / "model_repository", behind.address, security=behind.security, log=log) as server:
            began = time.perf_counter()
            with behind.door as door:
                start_ms = round(1000 * (time.perf_counter() - began))
                address = str(door.settings.grpc)
                with Client(server.address.grpc, api_key=behind.security.api_key) as direct, Client(address) as through:
                    found = measure(direct, through, calls, rounds)
                memory = memory_mib(door)
    result = found | {
        "door_rss_mib": round(sum(memory.values()), 1),
        "door_rss_parts": memory,
        "door_start_ms": start_ms,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
