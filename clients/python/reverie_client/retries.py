"""Whether a call that was not served is sent again, and when. Knows nothing of connections: both clients ask here.

Sent again is only what cannot have had an effect twice: inferences that have delivered nothing, after UNAVAILABLE.
gRPC's own retries are not used: they know neither Triton's refusal of a key, which is UNAVAILABLE too, nor errors in a
stream's messages, nor a budget in calls.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from reverie_client.errors import ReverieError, Unavailable

_CAPACITY = 10.0
"""Retries that a budget saves up at most, so that a long calm does not pay for a storm."""


@dataclass(frozen=True)
class Retry:
    """How calls are sent again.

    Attributes:
        attempts: how often a call is sent at most, the first time included.
        initial_seconds: the first pause is about so long, each further one about twice as long as that before; a
            random half of each is jitter.
        longest_seconds: no pause is longer, but for one that the server asks for.
        budget: extra calls, as a share of all calls.
        reserve: extra calls that a new client has in advance; its next calls pay for them.
    """

    attempts: int = 4
    initial_seconds: float = 0.1
    longest_seconds: float = 5.0
    budget: float = 0.2
    reserve: int = 3

    def __post_init__(self) -> None:
        limits = {
            "attempts": (self.attempts, self.attempts >= 1, "1 or more"),
            "initial_seconds": (self.initial_seconds, self.initial_seconds >= 0, "0 or more"),
            "longest_seconds": (self.longest_seconds, self.longest_seconds >= 0, "0 or more"),
            "budget": (self.budget, 0 <= self.budget <= 1, "0 to 1"),
            "reserve": (self.reserve, 0 <= self.reserve <= _CAPACITY, f"0 to {_CAPACITY:g}"),
        }
        for name, (value, is_fine, accepted) in limits.items():
            if not is_fine:
                raise ValueError(f"{name}: {value}; accepted: {accepted}")

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the call has been sent `attempt` times."""
        longest = min(self.longest_seconds, self.initial_seconds * 2.0 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)


class Budget:
    """A token bucket: each call brings a share of a token, each extra call takes one. Safe to share between threads."""

    def __init__(self, retry: Retry):
        self._share = retry.budget
        self._tokens = float(retry.reserve) if retry.budget else 0.0
        self._owed = self._tokens
        self._lock = threading.Lock()

    def on_call(self) -> None:
        """A call is sent for the first time."""
        with self._lock:
            paid_back = min(self._owed, self._share)
            self._owed -= paid_back
            self._tokens = min(_CAPACITY, self._tokens + self._share - paid_back)

    def take(self) -> bool:
        """Whether there is a token for an extra call; it is then taken."""
        with self._lock:
            # A rounded sum of shares does not cost a call.
            if self._tokens < 1 - 1e-9:
                return False
            self._tokens = max(0.0, self._tokens - 1)
            return True


class Attempts:
    """Of one call: how often it was sent, and whether once more.

    Args:
        retry: None for never.
        seconds: the call's deadline, from now.
    """

    def __init__(self, retry: Retry | None, budget: Budget | None, seconds: float):
        self._retry = retry
        self._budget = budget
        self._sent = 1
        self._deadline = time.monotonic() + seconds
        if budget is not None:
            budget.on_call()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; 0 after it."""
        return max(0.0, self._deadline - time.monotonic())

    def pause_after(self, error: ReverieError) -> float | None:
        """Seconds to wait before the call is sent again, or as many as the server asks for; None for not again."""
        if self._retry is None or self._budget is None or not isinstance(error, Unavailable):
            return None
        seconds = self._retry.pause(self._sent) if error.retry_after is None else error.retry_after
        if self._sent >= self._retry.attempts or seconds >= self.seconds_left or not self._budget.take():
            return None
        self._sent += 1
        return seconds
