"""The asyncio twin of `admin.py`, made from it by `make_aio.py`: change that one."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from reverie_client.aio_transport import AsyncConnection
from reverie_client.labels import Labels


class AsyncAdmin:
    """Administration over a client's connection: `AsyncClient.admin`."""

    def __init__(self, connection: AsyncConnection):
        self._connection = connection

    async def load(self, model: str, configuration: ModelConfig | None = None) -> None:
        """Load or reload `model`; requests in flight are finished by the version they began on.

        Args:
            configuration: in place of the one that the repository has.

        Raises:
            Unauthenticated: the control key is missing or wrong.
        """
        await self._connection.run(self._connection.calls.load(model, configuration))

    async def labels(self, model: str) -> Labels:
        """Return the labels of `model`'s versions as the server has them now; none for a model without versions."""
        return await self._connection.run(self._connection.calls.labels(model))

    async def live(self, timeout: float = 5.0) -> bool:
        """Return whether the server answers, its models ready or not."""
        return await self._connection.run(self._connection.calls.live(timeout))

    async def check_live(self, timeout: float = 5.0) -> None:
        """Raise what keeps the server from answering (ReverieError), if anything does."""
        await self._connection.run(self._connection.calls.check_live(timeout))

    async def call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """Call any method of the protocol that answers once, by its name ("ModelMetadata"), with its message."""
        return await self._connection.run(self._connection.calls.once(method, request, timeout))
