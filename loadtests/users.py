"""Who calls the service in a closed loop: one locust user class an endpoint of `endpoints.py`.

Also works as a locustfile, workers on other machines included: `locust -f loadtests/users.py --host
127.0.0.1:8001`, with `--master` and `--worker`.

gRPC under gevent hands a stream's messages over a little later than under threads: on 2 busy cores about
10 ms in the median and 50 ms at p90, which times to the first message include. In the times of whole requests
the difference is lost in the noise.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import ClassVar

# First: it replaces blocking calls (sockets, threads, time.sleep) by gevent's.
from locust import User, task  # isort: skip

import gevent
import gevent.hub
import grpc.experimental.gevent

from loadtests import endpoints
from loadtests.calls import Call, make_call
from loadtests.endpoints import Caller, Endpoint, first_message

# Before any channel exists, else a waiting call stops every user.
grpc.experimental.gevent.init_gevent()
# gRPC waits for each call on a thread of gevent's pool. Of its ten the eleventh call would wait for another to end.
gevent.hub.get_hub().threadpool.maxsize = 1000

TIMEOUT_S = 60.0
"""Deadline of a request under load; a later answer counts as a failure."""


class ReverieUser(User):
    """Calls one endpoint again and again, and reports each call to locust; its context holds the `Call`."""

    abstract = True
    endpoint: ClassVar[Endpoint]
    _numbers = itertools.count()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.weight = cls.endpoint.weight

    def wait_time(self) -> float:
        return self._rng.uniform(*self.endpoint.pause_s)

    def on_start(self) -> None:
        self._client = Caller(self.host, timeout=TIMEOUT_S)
        self._rng = random.Random(next(self._numbers))

    def on_stop(self) -> None:
        self._client.close()

    @task
    def call(self) -> None:
        """Send one request; the time to a stream's first message appears in locust's statistics too.

        Locust ends a user whose pause is over in the same moment, and would lose a call that the server is answering. A call
        that was begun is therefore waited for, at most until its deadline, and reported whatever ends its user.
        """
        calling = gevent.spawn(make_call, self.endpoint, self._client, self._rng.getrandbits(31))
        try:
            calling.join()
        finally:
            self._report_call(calling.get())

    def _report_call(self, made: Call) -> None:
        if self.endpoint.is_streaming and made.first_message_ms is not None:
            self._report(first_message(self.endpoint.name), made.first_message_ms, 0, "")
        self._report(self.endpoint.name, made.milliseconds, made.received_bytes, made.error, call=made)

    def _report(self, name: str, milliseconds: float, length: int, error: str, **context: object) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=milliseconds,
            response_length=length,
            exception=RuntimeError(error) if error else None,
            context=context,
        )


class GenerateUser(ReverieUser):
    endpoint = endpoints.GENERATE


class ScoreUser(ReverieUser):
    endpoint = endpoints.SCORE


class StylizeUser(ReverieUser):
    endpoint = endpoints.STYLIZE


class StyleUser(ReverieUser):
    endpoint = endpoints.STYLE


class DeepDreamUser(ReverieUser):
    endpoint = endpoints.DEEPDREAM


class StyleTransferUser(ReverieUser):
    endpoint = endpoints.STYLE_TRANSFER


USERS: tuple[type[ReverieUser], ...] = (
    GenerateUser,
    ScoreUser,
    StylizeUser,
    StyleUser,
    DeepDreamUser,
    StyleTransferUser,
)


def users_of(endpoints: Mapping[str, Endpoint]) -> list[type[ReverieUser]]:
    """Return the user classes of some endpoints, which may be others than the default mix's of the same names."""
    called = [user for user in USERS if user.endpoint.name in endpoints]
    return [type(u.__name__, (ReverieUser,), {"endpoint": endpoints[u.endpoint.name]}) for u in called]
