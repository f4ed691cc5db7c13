"""A turnstile for jobs that share one processor or GPU: they take turns, step by step.

Two optimisations that compute at once only take each other's caches and memory; one that runs to its end
first makes the other wait for minutes. So one computes at a time, and after each step the one that has had
the least time goes next: a short job overtakes a long one, and two equal jobs alternate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Lets one job through at a time, the one that has computed least first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[Turn] = []
        self._jobs: list[Turn] = []
        self._inside: Turn | None = None

    @contextmanager
    def job(self) -> Iterator[Turn]:
        """A job's whole time; it has its turn whenever this block's code runs."""
        turn = Turn(self)
        with self._condition:
            # A newcomer starts level with the others: it owes no time, and claims none from before it came.
            turn.used = min((job.used for job in self._jobs), default=0.0)
            self._jobs.append(turn)
        try:
            self._enter(turn)
            yield turn
        finally:
            self._leave(turn)
            with self._condition:
                self._jobs.remove(turn)

    def _enter(self, turn: Turn) -> None:
        with self._condition:
            self._waiting.append(turn)
            self._condition.wait_for(lambda: self._inside is None and self._next() is turn)
            self._waiting.remove(turn)
            self._inside = turn
            turn.since = time.monotonic()

    def _leave(self, turn: Turn) -> None:
        with self._condition:
            if self._inside is turn:
                turn.used += time.monotonic() - turn.since
                self._inside = None
                self._condition.notify_all()

    def _next(self) -> Turn:
        return min(self._waiting, key=lambda turn: turn.used)


class Turn:
    """One job's place; `used` are the seconds it has computed."""

    def __init__(self, turnstile: Turnstile):
        self._turnstile = turnstile
        self.used = self.since = 0.0

    def pass_on(self) -> None:
        """Let the job that has had the least time go next; returns when that is this one again."""
        self._turnstile._leave(self)
        self._turnstile._enter(self)
