"""What reaches a person of a failure: one sentence, and never a traceback for what the machine or the input did."""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reverie.errors import ToolkitError

PROJECT = Path(__file__).resolve().parents[1]
_BROKEN_FILE = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
TRACEBACK_VARIABLE = "REVERIE_TRACEBACK"
"""Set it to see where a failure came from."""


def tell(error: BaseException) -> int:
    """Write a sentence about `error` to stderr.

    Returns:
        The exit status.

    Raises:
        BaseException: `error` itself, where it is a fault of the program.
    """
    sentence = describe(error)
    if sentence is None or os.environ.get(TRACEBACK_VARIABLE):
        raise error
    status = getattr(error, "exit_status", 1)
    try:
        print(f"error: {sentence}" if status == 1 else sentence, file=sys.stderr, flush=True)
    except OSError:  # There is nobody left to tell.
        _divert(sys.stderr)
    return status


def describe(error: BaseException) -> str | None:
    """A sentence for the person who gave the command; None for a fault of the program."""
    if _has_our_base(error) or _is_ours(error):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return f"a text or a name has bytes that cannot be read or written as text ({error}); accepted: UTF-8"
    if isinstance(error, _BROKEN_FILE):
        return f"a file is cut off or damaged ({error}); make or fetch it again"
    if isinstance(error, MemoryError):
        return "this machine has too little memory for it; give a smaller input, or close other programs"
    return None


def _has_our_base(error: BaseException) -> bool:
    """Whether it is the toolkit's or the client's; the client is not imported for this, and need not be installed."""
    client = sys.modules.get("reverie_client.errors")
    return isinstance(error, ToolkitError) or (client is not None and isinstance(error, client.ReverieError))


def _is_ours(error: BaseException) -> bool:
    """Whether a line of ours says that a value is not accepted; Python's own ValueErrors come from elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    is_said = bool(frames) and (frames[-1].line or "").lstrip().startswith("raise ValueError(")
    return type(error) is ValueError and is_said and PROJECT in Path(frames[-1].filename).parents


def _of_system(error: OSError) -> str:
    """With the names of the files where the system says them."""
    names = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))
    ]
    what = error.strerror or str(error) or type(error).__name__
    return f"{' -> '.join(names)}: {what}" if names else what


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """See to it that what was printed has arrived; where it cannot, that is an OSError of "standard output".

    It also lets any text be printed: what no terminal can show, as a backslash and its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        _flush(sys.stdout)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError as error:
        _divert(stream)
        raise OSError(error.errno, error.strerror, "standard output") from None


def _divert(stream: TextIO) -> None:
    """Let what is still to be written go nowhere: Python flushes once more at its end, and would end with status 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
