"""A scheduler for jobs that share one processor or GPU: they take turns of time, and clients share it equally.

Two optimizations that compute at once only take each other's caches and memory; one that runs to its end first makes
the other wait for minutes. So one computes at a time, and gives way at its next checkpoint once it has had its turn. Next
comes the client that has had the least time, however many jobs it has, and of its jobs the one that has had least: a
short job overtakes a long one, and two equal jobs alternate.

A large call, the gradient of a large picture, gives way inside. Its memory stays taken meanwhile, so there is one such
call at a time: while it stands still, only jobs go that make none. A job that waits ends at once when its caller has
left. Knows nothing about pictures or Triton.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.05
"""A job that has computed for so long gives way at its next checkpoint."""
CREDIT_TURNS = 20
"""A client that had nothing to do begins so far behind the others, so that a short job need not wait for theirs."""
SHORT_TURNS, SHORT_RATE = 20, 1 / 3
"""The first turns of each job count so much for its client: beside a client with long jobs, one with short jobs gets
three quarters of the time and waits little; the long ones hardly notice.
"""
CHECK_SECONDS = 0.25
"""How often a job asks whether its caller is still there."""

Check = Callable[[], None]
"""Raises, `Cancelled` for example, if the job should end."""


class FairShareScheduler:
    """Lets one job through at a time; see the module. It is a `synthesis.checkpoints.Listener`.

    Args:
        turn_seconds: that a job computes before it gives way.
        clock: seconds.
    """

    def __init__(self, turn_seconds: float = TURN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.turn_seconds, self.clock = turn_seconds, clock
        self._condition = threading.Condition()
        self._waiting: list[Slot] = []
        self._jobs: list[Slot] = []
        self._used: dict[str, float] = {}
        self._inside: Slot | None = None
        self._in_call: Slot | None = None
        self._own = threading.local()

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        return len(self._waiting)

    @property
    def jobs(self) -> int:
        """Jobs that wait or compute."""
        return len(self._jobs)

    @property
    def used(self) -> dict[str, float]:
        """Seconds that each client has had, as they count among those that are there."""
        with self._condition:
            return dict(self._used)

    @contextmanager
    def job(self, client: str = "", check: Check = lambda: None) -> Iterator[Slot]:
        """A job's whole time; it has its turn whenever this block's code runs.

        Args:
            client: whose job it is; those without a name count as one.
            check: called while the job waits and at its checkpoints, every `CHECK_SECONDS`; what it raises ends the job.
        """
        slot = Slot(self, client, check)
        with self._condition:
            self._join(slot)
        try:
            slot.enter()
            self._own.slot = slot
            yield slot
        finally:
            self._own.slot = None
            self._leave(slot)
            with self._condition:
                self._jobs.remove(slot)

    def checkpoint(self) -> None:
        """`Slot.yield_slot` of this thread's job."""
        slot: Slot | None = getattr(self._own, "slot", None)
        if slot is not None:
            slot.yield_slot()

    @contextmanager
    def large_call(self) -> Iterator[None]:
        """A call of this thread's job that has checkpoints inside; waits while another job is in such a call."""
        slot: Slot | None = getattr(self._own, "slot", None)
        if slot is None:
            yield
            return
        slot.makes_large_calls = True
        slot.yield_slot(must=self._in_call is not None)
        self._in_call = slot
        try:
            yield
        finally:
            with self._condition:
                self._in_call = None
                self._condition.notify_all()

    def checkpoint_inside(self) -> None:
        """`Slot.yield_slot` of the job in a large call; from any thread that computes it, also several at a time."""
        slot = self._in_call
        if slot is not None:
            with slot.only_one:
                slot.yield_slot()

    def _join(self, slot: Slot) -> None:
        """Let a job begin level: its client owes nothing from before, and claims `CREDIT_TURNS` at most."""
        active = [self._used[job.client] for job in self._jobs]
        least = min(active) - CREDIT_TURNS * self.turn_seconds if active else 0.0
        # What lies further back makes no difference, so it is forgotten.
        self._used = {client: used for client, used in self._used.items() if used >= least} if active else {}
        self._used.setdefault(slot.client, least)
        slot.used = min((job.used for job in self._jobs if job.client == slot.client), default=0.0)
        self._jobs.append(slot)

    def _enter(self, slot: Slot) -> None:
        with self._condition:
            self._waiting.append(slot)
        try:
            while not self._is_in(slot):
                slot.ask()
        finally:
            with self._condition:
                self._waiting.remove(slot)
                self._condition.notify_all()

    def _is_in(self, slot: Slot) -> bool:
        """Let a job in that waits, as soon as it is the next; False if that takes longer than `CHECK_SECONDS`."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._inside is None and self._next() is slot, CHECK_SECONDS):
                return False
            self._inside = slot
            return True

    def _leave(self, slot: Slot) -> None:
        with self._condition:
            if self._inside is slot:
                slot.charge()
                self._inside = None
                self._condition.notify_all()

    def _charge(self, slot: Slot, seconds: float) -> None:
        with self._condition:
            self._used[slot.client] += seconds * (SHORT_RATE if slot.used < SHORT_TURNS * self.turn_seconds else 1.0)
            slot.used += seconds

    def _next(self) -> Slot | None:
        """The job that goes next, of those that may."""
        may_go = [slot for slot in self._waiting if self._in_call in (None, slot) or not slot.makes_large_calls]
        return min(may_go, key=self._order, default=None)

    def _is_behind(self, slot: Slot) -> bool:
        """Whether one that waits has had less than `slot`."""
        with self._condition:
            first = self._next()
            return first is not None and self._order(first) < self._order(slot)

    def _order(self, slot: Slot) -> tuple[float, float]:
        return self._used[slot.client], slot.used


class Slot:
    """One job's place in the scheduler.

    Attributes:
        used: seconds that it has computed.
        makes_large_calls: it has made one.
        only_one: held by the thread that yields for a large call.
    """

    def __init__(self, scheduler: FairShareScheduler, client: str = "", check: Check = lambda: None):
        self._scheduler, self.client, self._check = scheduler, client, check
        self.used = 0.0
        self.makes_large_calls = False
        self.only_one = threading.Lock()
        self._entered = self._charged = scheduler.clock()
        self._asked = time.monotonic()

    def yield_slot(self, must: bool = False) -> None:
        """Let another job go if this one has had its turn; returns when this one may go on.

        Args:
            must: go on only after those that may go first, whatever time has passed.

        Raises:
            What `check` does.
        """
        self.ask()
        self.charge()
        is_over = self._scheduler.clock() - self._entered >= self._scheduler.turn_seconds
        if must or (is_over and self._scheduler._is_behind(self)):
            self._scheduler._leave(self)
            self.enter()

    def enter(self) -> None:
        """Wait for the turn."""
        self._scheduler._enter(self)
        self._entered = self._charged = self._scheduler.clock()

    def ask(self) -> None:
        """Call `check`, if it is time to."""
        now = time.monotonic()
        if now - self._asked >= CHECK_SECONDS:
            self._asked = now
            self._check()

    def charge(self) -> None:
        """Count the time since it was counted last."""
        now = self._scheduler.clock()
        self._scheduler._charge(self, now - self._charged)
        self._charged = now
