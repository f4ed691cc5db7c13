"""The closed loop: N locust users, each of whom waits for its answer and a pause before it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

# First: importing locust monkey-patches what the modules below use.
from locust.env import Environment  # isort: skip

from loadtests.calls import Call
from loadtests.endpoints import ENDPOINTS, Endpoint
from loadtests.users import TIMEOUT_S, ReverieUser, users_of


def send_from_users(
    address: str,
    users: int,
    seconds: float,
    on_call: Callable[[Call], None] = lambda call: None,
    endpoints: Mapping[str, Endpoint] = ENDPOINTS,
) -> list[Call]:
    """Run `users` for `seconds`, spread over `endpoints`, and wait for the requests that are under way then.

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

    environment = Environment(user_classes=_shared_out(users, endpoints), host=address, stop_timeout=TIMEOUT_S)
    environment.events.request.add_listener(keep)
    runner = environment.create_local_runner()
    runner.start(users, spawn_rate=users)
    time.sleep(max(0.0, began + seconds - time.perf_counter()))
    runner.quit()
    return calls


def _shared_out(users: int, endpoints: Mapping[str, Endpoint]) -> list[type[ReverieUser]]:
    """The user classes with fixed numbers: locust's weights would leave rare endpoints out of a small crowd."""
    counts = shares(users, {name: endpoint.weight for name, endpoint in endpoints.items()})
    classes = users_of(endpoints)
    for user in classes:
        user.fixed_count = counts[user.endpoint.name]
    return classes


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Share out `total` in proportion to `weights`, at least one each (Sainte-Laguë's rule for the rest)."""
    counts = dict.fromkeys(weights, 1)
    for _ in range(total - len(weights)):
        most_due = max(weights, key=lambda name: weights[name] / (2 * counts[name] + 1))
        counts[most_due] += 1
    return counts
