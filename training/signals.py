"""Ctrl-C and SIGTERM in a training: never in the middle of a step, whose variables would be half old and half new."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns both signals into `KeyboardInterrupt`, at once or at the end of a block that must not be cut."""

    def __init__(self) -> None:
        self._is_held = self._is_pending = False

    @contextmanager
    def caught(self) -> Iterator[StopSignals]:
        """For as long as this block runs; only in the main thread, elsewhere signals go their usual way."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Until the end of this block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._is_held:
            raise KeyboardInterrupt
        self._is_pending = True
