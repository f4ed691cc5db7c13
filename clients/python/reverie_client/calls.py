"""What a call consists of, without sending it: both clients follow these steps.

A call is a generator: it yields what is to be done (send an `Rpc`, `Pause`), is sent the answer or thrown the error, and
returns the result. `transport` does that and waits, `aio_transport` does it with asyncio.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar, Union

import grpc
from google.protobuf.json_format import MessageToJson
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from reverie_client import requests
from reverie_client.errors import InvalidArgument, NotFound, ReverieError, Unavailable, of_status
from reverie_client.labels import Labels
from reverie_client.messages import to_arrays, to_seconds
from reverie_client.results import Health, Inference, ModelStatus
from reverie_client.retries import Attempts, Budget
from reverie_client.settings import Settings

_LABELS_S = 1.0
"""How long a model's labels are remembered."""
_LABELS_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Rpc:
    """A request that is answered once.

    Attributes:
        method: name of the protocol's method.
        seconds: to wait for the answer.
        metadata: beside that of every call.
        may_be_cancelled: the server is told when the caller gives up; see `transport.Connection`.
    """

    method: str
    request: Any
    seconds: float
    metadata: tuple[tuple[str, str], ...] = ()
    may_be_cancelled: bool = False


@dataclass(frozen=True)
class Pause:
    """Nothing for so many seconds."""

    seconds: float


Result = TypeVar("Result")
Steps = Generator[Union[Rpc, Pause], Any, Result]


class Calls:
    """The calls of one connection, as steps."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._budget = Budget(settings.retry) if settings.retry else None
        self._known: dict[str, tuple[float, Labels]] = {}

    def attempts(self, timeout: float | None) -> Attempts:
        """Of a call that may be repeated and that has `timeout` seconds, or None for the client's own."""
        return Attempts(self._settings.retry, self._budget, self._seconds(timeout))

    def once(self, method: str, request: Any, timeout: float | None = None) -> Steps[Any]:
        """A call that is never repeated."""
        return (yield Rpc(method, request, self._seconds(timeout)))

    def repeatable(self, method: str, request: Any, timeout: float | None = None) -> Steps[Any]:
        """A call that changes nothing, and is sent again where `retry` says so."""
        attempts = self.attempts(timeout)
        while True:
            try:
                return (yield Rpc(method, request, attempts.seconds_left))
            except ReverieError as error:
                pause = None if _is_gone(error) else attempts.pause_after(error)
                if pause is None:
                    raise
            yield Pause(pause)

    def infer(
        self, request: service_pb2.ModelInferRequest, label: str = "", timeout: float | None = None
    ) -> Steps[Inference]:
        """The answer to `request`; where it names no version, by the one that `label` or the labels choose."""
        try:
            return (yield from self._inferred(request, label, timeout))
        except ReverieError as error:
            error.request_id = request.id
            raise

    def _inferred(self, request: service_pb2.ModelInferRequest, label: str, timeout: float | None) -> Steps[Inference]:
        is_chosen = not request.model_version
        if is_chosen:
            request.model_version = yield from self._choose(request.model_name, label)
        try:
            response = yield from self.repeatable("ModelInfer", request, timeout)
        except ReverieError as error:
            again = ""
            if is_chosen and _is_gone(error):
                again = yield from self._choose_another(request.model_name, label, request.model_version)
            if not again:
                raise
            request.model_version = again
            response = yield from self.repeatable("ModelInfer", request, timeout)
        return Inference(to_arrays(response), response.model_version, request.id)

    def labels(self, model: str) -> Steps[Labels]:
        """The labels of `model` as the server has them now."""
        request = service_pb2.ModelConfigRequest(name=model)
        answer = yield from self.once("ModelConfig", request, min(self._settings.timeout, _LABELS_TIMEOUT_S))
        return Labels.of_configuration(answer.config)

    def styles(self) -> Steps[list[str]]:
        """The names of the styles; of a server that has no library, those of its network."""
        try:
            answer = yield from self.infer(requests.styles())
        except (InvalidArgument, NotFound):
            answer = None
        if answer is not None and "styles" in answer.outputs:
            return [name.decode() for name in answer.outputs["styles"]]
        known = yield from self.repeatable("ModelConfig", service_pb2.ModelConfigRequest(name="style"))
        return known.config.parameters["styles"].string_value.split(",")

    def models(self) -> Steps[list[ModelStatus]]:
        """Every version that the server knows."""
        answer = yield from self._control("RepositoryIndex", service_pb2.RepositoryIndexRequest())
        return [ModelStatus(m.name, m.version, m.state, m.reason) for m in answer.models]

    def load(self, model: str, configuration: ModelConfig | None) -> Steps[None]:
        """Load or reload a model."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if configuration is not None:
            request.parameters["config"].string_param = MessageToJson(configuration)
        yield from self._control("RepositoryModelLoad", request)

    def check_live(self, timeout: float) -> Steps[None]:
        """Raise what keeps the server from answering."""
        answer = yield self._probe("ServerLive", service_pb2.ServerLiveRequest(), timeout)
        if not answer.live:
            raise of_status(grpc.StatusCode.UNAVAILABLE, "the server says that it is not live")

    def live(self, timeout: float) -> Steps[bool]:
        """Whether the server answers."""
        try:
            yield from self.check_live(timeout)
        except ReverieError:
            return False
        return True

    def ready(self, timeout: float) -> Steps[bool]:
        """Whether the server has all its models."""
        try:
            answer = yield self._probe("ServerReady", service_pb2.ServerReadyRequest(), timeout)
        except ReverieError:
            return False
        return answer.ready

    def health(self, timeout: float) -> Steps[Health]:
        """Both; a server that does not answer is asked once."""
        if not (yield from self.live(timeout)):
            return Health(live=False, ready=False)
        return Health(live=True, ready=(yield from self.ready(timeout)))

    def _probe(self, method: str, request: Any, timeout: float) -> Rpc:
        return Rpc(method, request, self._seconds(timeout), may_be_cancelled=True)

    def _control(self, method: str, request: Any) -> Steps[Any]:
        return (yield Rpc(method, request, self._seconds(None), self._settings.control_metadata()))

    def _seconds(self, timeout: float | None) -> float:
        return to_seconds("timeout", timeout or self._settings.timeout)

    def _choose(self, model: str, label: str) -> Steps[str]:
        """The version to ask for; "", any, where the model has no labels and none was asked for.

        Raises:
            NotFound: the model has no such label.
        """
        labels = yield from self._remembered_labels(model)
        version = labels.versions.get(label) if label else labels.sample_version(random.random())
        if label and version is None:
            there = ", ".join(f"{n} ({v})" for n, v in sorted(labels.versions.items())) or "none"
            raise of_status(grpc.StatusCode.NOT_FOUND, f"{model} has no label {label!r}; it has: {there}")
        return "" if version is None else str(version)

    def _remembered_labels(self, model: str) -> Steps[Labels]:
        looked_up, labels = self._known.get(model, (-_LABELS_S, Labels()))
        if time.monotonic() - looked_up < _LABELS_S:
            return labels
        try:
            labels = yield from self.labels(model)
        except ReverieError:
            labels = Labels()  # The call itself will say what is wrong.
        self._known[model] = (time.monotonic(), labels)
        return labels

    def _choose_another(self, model: str, label: str, tried: str) -> Steps[str]:
        """Another version to try, since `tried` has gone after its label was looked up; "" for none."""
        self._known.pop(model, None)
        version = yield from self._choose(model, label)
        return "" if version == tried else version


def _is_gone(error: ReverieError) -> bool:
    """Whether the version that was asked for is not there any more; asking for it again would not help."""
    return isinstance(error, (Unavailable, NotFound)) and "unknown model" in error.message
