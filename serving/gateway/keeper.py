"""Keeps a gateway running: one that has ended by itself is started again. Knows nothing of what is before or behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.gateway.process import Gateway, GatewayError
from serving.telemetry.definitions import RESTARTS

_LOOK_EVERY_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


@dataclass
class GatewayKeeper:
    """Launches `gateway` when it is entered, and looks after it until it is left.

    Attributes:
        gateway: not yet started.
        say: told in a sentence what ended, and what came of it.

    Raises (on entering):
        GatewayError: something else listens at its address.
    """

    gateway: Gateway
    say: Callable[[str], None] = lambda line: None
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _watcher: threading.Thread | None = field(default=None, init=False, repr=False)
    _failures: int = field(default=0, init=False, repr=False)

    def __enter__(self) -> GatewayKeeper:
        self.gateway.launch()  # It ends with the thread that starts it, so that this one is to live as long.
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._watcher:
            self._watcher.join()
        self.gateway.stop()

    def wait(self) -> None:
        """Wait until the gateway answers, and look after it from then on.

        Raises:
            GatewayError: it cannot start.
        """
        self.gateway.wait()
        self._watcher = threading.Thread(target=self._watch, name="gateway", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        """Whatever this thread starts ends with it, so it lives until the keeper is left."""
        while not self._closed.wait(_LOOK_EVERY_S):
            has_ended = self.gateway.pid is None or self.gateway.poll() is not None
            if has_ended and not self.gateway.interrupt.is_set():
                self._start_again()

    def _start_again(self) -> None:
        started = time.monotonic()
        self._tell("the gateway has ended; starting it again")
        RESTARTS.labels("gateway").inc()
        try:
            self.gateway.start()
        except (GatewayError, OSError) as error:
            pause = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures, 16), _LONGEST_PAUSE_S)
            self._failures += 1
            self._tell(f"{error}; trying again in {pause:g} s")
            self._closed.wait(pause)
        else:
            self._failures = 0
            self._tell(f"the gateway answers again after {time.monotonic() - started:.1f} s")

    def _tell(self, line: str) -> None:
        """Nobody may be listening any more, and a disk may be full; that ends nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.say(line)
