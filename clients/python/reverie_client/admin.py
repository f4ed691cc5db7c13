"""What whoever runs a server asks of it: loading, labels, probes. Nothing here is ever sent twice."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from reverie_client.labels import Labels
from reverie_client.transport import Connection


class Admin:
    """Administration over a client's connection: `Client.admin`."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def load(self, model: str, configuration: ModelConfig | None = None) -> None:
        """Load or reload `model`; requests in flight are finished by the version they began on.

        Args:
            configuration: in place of the one that the repository has.

        Raises:
            Unauthenticated: the control key is missing or wrong.
        """
        self._connection.run(self._connection.calls.load(model, configuration))

    def labels(self, model: str) -> Labels:
        """Return the labels of `model`'s versions as the server has them now; none for a model without versions."""
        return self._connection.run(self._connection.calls.labels(model))

    def live(self, timeout: float = 5.0) -> bool:
        """Return whether the server answers, its models ready or not."""
        return self._connection.run(self._connection.calls.live(timeout))

    def check_live(self, timeout: float = 5.0) -> None:
        """Raise what keeps the server from answering (ReverieError), if anything does."""
        self._connection.run(self._connection.calls.check_live(timeout))

    def call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """Call any method of the protocol that answers once, by its name ("ModelMetadata"), with its message."""
        return self._connection.run(self._connection.calls.once(method, request, timeout))
