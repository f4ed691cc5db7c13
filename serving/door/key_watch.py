"""Watches the key file, so that a change of it counts within a second and without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from reverie.errors import ToolkitError
from serving.door.keys import Callers, KeyFile

LOOK_SECONDS = 0.25
"""Looking costs a few microseconds, works on every file system, and sees a link that leads elsewhere now."""


@dataclass
class KeyWatch:
    """Calls `on_change` with the callers of the key file, in a thread of its own, each time that the file has changed.

    Attributes:
        file: the key file.
        on_change: puts the callers in force.
        on_error: is told why a change was not taken over; the callers from before stay in force.
    """

    file: KeyFile
    on_change: Callable[[Callers], None]
    on_error: Callable[[str], None]
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Put the present callers in force, and watch.

        Raises:
            KeyFileError: there is no key file, or it is not accepted.
        """
        seen = self._state()
        self.on_change(self.file.callers())
        self._thread = threading.Thread(target=self._watch, args=(seen,), name="key-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _watch(self, seen: tuple[int, ...]) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            state = self._state()  # Before it is read: what changes meanwhile is seen the next time.
            if state != seen:
                seen = state
                self._take_over()

    def _take_over(self) -> None:
        try:
            self.on_change(self.file.callers())
        except (ToolkitError, OSError) as error:
            self.on_error(f"the keys from before stay in force: {error}")

    def _state(self) -> tuple[int, ...]:
        try:
            found = self.file.path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode
