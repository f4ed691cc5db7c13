"""What a connection is made of: address, deadline, keys, TLS, retries; out of arguments and the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Optional

import grpc
from tritonclient.grpc import service_pb2

from reverie_client import credentials, headers, hosts, proxies
from reverie_client.credentials import Tls
from reverie_client.errors import ParameterError
from reverie_client.retries import Retry

_MAX_MESSAGE = 2**31 - 1
_NO_METADATA: tuple[tuple[str, str], ...] = ()

CallMetadata = Optional[Callable[[], Mapping[str, str]]]
"""Asked at each call for what is sent with it."""


class Settings:
    """Settings of one connection; arguments: see `Client`.

    Attributes:
        address, timeout, retry: as given.
        tls: None for a connection without.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        timeout: float = 120.0,
        control_key: str | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        call_metadata: CallMetadata = None,
    ):
        if hosts.lacks_brackets(address):
            raise ParameterError(
                f"address: {address!r}; accepted: HOST:PORT, an IPv6 address in brackets, as in [::1]:8001"
            )
        self.address, self.timeout, self.retry = address, timeout, retry
        self._call_metadata = call_metadata
        self._metadata = credentials.metadata(
            headers.API_KEY, credentials.clients_key(credentials.API_KEY_VARIABLE, api_key)
        )
        if name := os.environ.get(credentials.CLIENT_VARIABLE, "") if name is None else name:
            self._metadata += ((headers.CLIENT, name),)
        self._may_look_up_control_key = control_key is None
        self._control_key = credentials.clients_key(credentials.CONTROL_KEY_VARIABLE, control_key)
        self.tls = tls or Tls.from_environment()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with a call that is made now."""
        return self._metadata + (tuple(self._call_metadata().items()) if self._call_metadata else ())

    def metadata_of(self, request: Any) -> tuple[tuple[str, str], ...]:
        """Sent with `request` now.

        One of a model gets an id, which the server's logs know it by: its own, else what `call_metadata` says, else a new
        one. It is in the request and in what is sent with it.
        """
        metadata = self.metadata
        if not isinstance(request, service_pb2.ModelInferRequest):
            return metadata
        if not request.id:
            said = dict(metadata).get(headers.REQUEST_ID, "")
            request.id = said if headers.is_request_id(said) else headers.new_request_id()
        others = (pair for pair in metadata if pair[0] != headers.REQUEST_ID)
        return (*others, (headers.REQUEST_ID, request.id))

    def control_metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call that needs the control key sends too.

        The key is looked up anew each time: a server that was started again has another.
        """
        key = self._control_key
        if key is None and self._may_look_up_control_key:
            from reverie_client import control_keys  # Here, because it needs a POSIX system.

            key = control_keys.find(self.address)
        return credentials.metadata(headers.CONTROL, key) if key else _NO_METADATA

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel with TLS; None for one without."""
        return self.tls.credentials() if self.tls else None

    def channel_options(self) -> list[tuple[str, Any]]:
        """Of gRPC, for either client."""
        return [
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            *proxies.channel_options(self.address),
        ]
