"""The closed loop: N locust users, each of whom waits for its answer and a pause before it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

# First: importing locust monkey-patches what the modules below use.
from locust.env import Environment  # isort: skip

from loadtests.calls import Call
from loadtests.users import TIMEOUT_S, USERS


def send_from_users(
    address: str, users: int, seconds: float, on_call: Callable[[Call], None] = lambda call: None
) -> list[Call]:
    """Run `users` for `seconds`, spread over the endpoints; requests that are under way then are waited for.

    Args:
        on_call: told every call as it ends.

    Returns:
        The calls in order of their ends, times counted from the load's beginning.
    """
    calls: list[Call] = []
    began = time.perf_counter()

    def keep(context: dict[str, Any], **_: Any) -> None:
        if "call" in context:
            calls.append(context["call"].since(began))
            on_call(calls[-1])

    environment = Environment(user_classes=_shared_out(users), host=address, stop_timeout=TIMEOUT_S)
    environment.events.request.add_listener(keep)
    runner = environment.create_local_runner()
    runner.start(users, spawn_rate=users)
    time.sleep(max(0.0, began + seconds - time.perf_counter()))
    runner.quit()
    return calls


def _shared_out(users: int) -> list[type]:
    """The user classes with fixed numbers: locust's weights would leave rare endpoints out of a small crowd."""
    counts = shares(users, {user.endpoint.name: user.endpoint.weight for user in USERS})
    for user in USERS:
        user.fixed_count = counts[user.endpoint.name]
    return list(USERS)


def shares(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Share out `total` in proportion to `weights`, at least one each (Sainte-Laguë's rule for the rest)."""
    counts = dict.fromkeys(weights, 1)
    for _ in range(total - len(weights)):
        most_due = max(weights, key=lambda name: weights[name] / (2 * counts[name] + 1))
        counts[most_due] += 1
    return counts
