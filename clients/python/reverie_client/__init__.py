"""A typed client for a Reverie server, over gRPC (Open Inference Protocol v2): `Client`, and `AsyncClient` for asyncio.

Example:
    >>> with Client("127.0.0.1:8001") as client:            # doctest: +SKIP
    ...     picture = client.stylize(Path("photo.jpg").read_bytes())
    ...     for delta in client.generate("This movie", temperature=0.7):
    ...         print(delta.text, end="", flush=True)
"""

from reverie_client.aio_client import AsyncClient
from reverie_client.aio_transport import AsyncStream
from reverie_client.client import Client
from reverie_client.credentials import Tls
from reverie_client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ParameterError,
    PermissionDenied,
    ResourceExhausted,
    ReverieError,
    SecurityError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from reverie_client.results import Health, Inference, ModelStatus, PictureStep, Score, TextDelta
from reverie_client.retries import Retry
from reverie_client.transport import Stream

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Health",
    "Inference",
    "Internal",
    "InvalidArgument",
    "ModelStatus",
    "NotFound",
    "OutOfRange",
    "ParameterError",
    "PermissionDenied",
    "PictureStep",
    "ResourceExhausted",
    "Retry",
    "ReverieError",
    "Score",
    "SecurityError",
    "Stream",
    "TextDelta",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
]
