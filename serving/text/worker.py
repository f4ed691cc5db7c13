"""A process of `pool`: one text engine, driven through a connection that it was started with.

    python -m serving.text.worker CONNECTION_FD LOAD_FD FOLDER PRECISION SLOTS SLOTS_OF_ONE_CLIENT

Takes `("task", number, Task)` and `("cancel", number)`; answers `("ready",)` or `("failed", why)` first, then lists of
`Update`. It ends when the other end of the connection does.
"""

from __future__ import annotations

import mmap
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from language.tokenizer import load_tokenizer
from serving.telemetry import logs
from serving.text.decoder import Decoder
from serving.text.engine import TextEngine
from serving.text.request import Update


def main() -> None:
    """Serve one connection."""
    logs.configure()
    connection_fd, load_fd, folder, precision, slots, of_one = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides when this ends
    connection = Connection(int(connection_fd))
    load = memoryview(mmap.mmap(int(load_fd), 8)).cast("q")
    try:
        decoder = Decoder(Path(folder), precision, int(slots))
        tokenizer = load_tokenizer(Path(folder))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
        return
    engine = TextEngine(decoder, tokenizer, lambda: load[0], int(of_one))
    connection.send(("ready",))
    serve(connection, engine)


def serve(connection: Connection, engine: TextEngine) -> None:
    """Do what the pool says until it has gone.

    A thread of its own receives: the pool must never have to wait for a step, or for what this process says of it.
    """
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    while (refused := _obey(engine, inbox)) is not None:
        updates = [_portable(update) for update in (*refused, *engine.step())]
        if updates:
            try:
                connection.send(updates)
            except OSError:
                return


def _receive(connection: Connection, inbox: queue.SimpleQueue) -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        inbox.put(None)


def _obey(engine: TextEngine, inbox: queue.SimpleQueue) -> list[Update] | None:
    """Do what the pool has said, and wait for it while there is nothing else to do; None once it has gone.

    Returns:
        What could not be begun, each with its error.
    """
    refused: list[Update] = []
    while True:
        try:
            message = inbox.get(block=engine.is_idle and not refused)
        except queue.Empty:
            return refused
        if message is None:
            return None
        kind, number, *rest = message
        if kind == "cancel":
            engine.cancel(number)
            continue
        try:
            engine.add(number, rest[0])
        except Exception as error:  # this task's, and no reason to end the others'
            refused.append((number, error, True))


def _portable(update: Update) -> Update:
    """An update that the pool can read: not every error survives the way."""
    number, content, last = update
    if isinstance(content, BaseException):
        return number, RuntimeError(f"{type(content).__name__}: {content}"), last
    return update


if __name__ == "__main__":
    main()
