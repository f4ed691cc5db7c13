"""A process of `pool`: one text engine, driven through a connection that it was started with.

    python -m serving.text.worker CONNECTION_FD LOAD_FD FOLDER PRECISION SLOTS

Takes `("task", number, Task)` and `("cancel", number)`; answers `("ready",)` or `("failed", why)` first, then
`(number, pieces, last)` or `(number, error)`. It ends when the other end of the connection does.
"""

from __future__ import annotations

import mmap
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from language.tokenizer import load_tokenizer
from serving.text.decoder import Decoder
from serving.text.engine import Piece, Request, Task, TextEngine


class _PipeSink:
    """Sends a request's pieces back; whether its caller is there, the pool asks."""

    def __init__(self, connection: Connection, number: int, requests: dict[int, Request]):
        self._connection, self._number, self._requests = connection, number, requests

    def send(self, pieces: list[Piece], last: bool) -> None:
        if last:
            self._requests.pop(self._number, None)
        self._connection.send((self._number, pieces, last))

    def fail(self, error: BaseException) -> None:
        self._requests.pop(self._number, None)
        self._connection.send((self._number, RuntimeError(f"{type(error).__name__}: {error}")))

    def cancelled(self) -> bool:
        return False


def main() -> None:
    """Serve one connection."""
    connection_fd, load_fd, folder, precision, slots = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides when this ends
    connection = Connection(int(connection_fd))
    load = memoryview(mmap.mmap(int(load_fd), 8)).cast("q")
    try:
        decoder = Decoder(Path(folder), precision, int(slots))
        tokenizer = load_tokenizer(Path(folder))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        return
    engine = TextEngine([decoder], tokenizer, sys.maxsize, total_load=lambda: load[0])
    connection.send(("ready",))
    serve(connection, engine)
    engine.close()


def serve(connection: Connection, engine: TextEngine) -> None:
    """Do what the pool says until it has gone."""
    requests: dict[int, Request] = {}
    while True:
        try:
            kind, number, *rest = connection.recv()
        except (EOFError, OSError):
            return
        if kind == "cancel":
            cancelled = requests.get(number)
            if cancelled is not None:
                engine.cancel(cancelled)
        else:
            _begin(engine, rest[0], number, _PipeSink(connection, number, requests), requests)


def _begin(engine: TextEngine, task: Task, number: int, sink: _PipeSink, requests: dict[int, Request]) -> None:
    try:
        request = engine.enqueue(task, sink)
    except Exception as error:  # this task's, and no reason to end the others'
        sink.fail(error)
        return
    with engine.work:  # it may have ended already
        if not request.closed:
            requests[number] = request


if __name__ == "__main__":
    main()
