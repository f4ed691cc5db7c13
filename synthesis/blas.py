"""BLAS on one thread while an optimization on short vectors runs.

SciPy's L-BFGS calls BLAS thousands of times on short vectors. Threads then cost more than they bring: 50 instead of
13 ms of processor time an iteration, measured. TensorFlow and ONNX Runtime do not use BLAS.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import OpenBLASController, ThreadpoolController


class OneThread:
    """Holds BLAS to one thread while any caller is inside. The setting is the process's, and so callers are counted."""

    def __init__(self) -> None:
        self._lock, self._callers = threading.Lock(), 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold BLAS to one thread in this block; the last caller to leave gives the threads back."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._callers == 0:
                _take_control()
                self._limiter = _controller().limit(limits=1, user_api="blas")
            self._callers += 1

    def _leave(self) -> None:
        with self._lock:
            self._callers -= 1
            if self._callers == 0:
                _take_control()
                self._limiter.restore_original_limits()


def _take_control() -> None:
    """Let this thread set the limit: threadpoolctl listens to the first thread only, and we count them all."""
    OpenBLASController.clear_controlling_thread(force=True)


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    """Return the controller of the libraries that are loaded; finding them takes a few milliseconds."""
    return ThreadpoolController()


one_thread = OneThread()
"""The one of this process."""
