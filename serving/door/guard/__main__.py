"""The guard as a process: reads its task as one line of JSON from stdin, so that no process list shows a key.

It writes "ready" to stdout once it listens, and ends when stdin is closed, as it is when its parent has gone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from typing import Any

from serving.door.guard.admission import Keys
from serving.door.guard.proxy import Proxy, serve


async def main(task: dict[str, Any]) -> None:
    """Guard until SIGTERM, SIGINT or the end of stdin."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)
    proxy = Proxy(task["triton"], Keys(**task["keys"]), task["message_bytes"])
    await serve(proxy, task["address"], task["requests"], lambda: print("ready", flush=True), stop)


if __name__ == "__main__":
    # gRPC's poller and the loop take turns: a turn is as short as a call, not the usual 5 ms.
    sys.setswitchinterval(0.0002)
    # What was imported stays, and need not be looked through again and again.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    asyncio.run(main(json.loads(sys.stdin.readline())))
