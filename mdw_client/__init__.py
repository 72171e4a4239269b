"""The client of the market data warehouse: `Client()`, `AsyncClient()`, and channels for the stubs in `mdw`."""

from mdw_client.channel import aio_channel, channel
from mdw_client.client import AsyncClient, Client
from mdw_client.credentials import Tls
from mdw_client.errors import (
    Aborted,
    AlreadyExists,
    CallError,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    FailedPrecondition,
    ForkedProcessError,
    Internal,
    InvalidArgument,
    MdwError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from mdw_client.symbols import new_symbol
from mdw_client.version import __version__

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "CallError",
    "Cancelled",
    "Client",
    "ConfigurationError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "ForkedProcessError",
    "Internal",
    "InvalidArgument",
    "MdwError",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Violation",
    "__version__",
    "aio_channel",
    "channel",
    "new_symbol",
]
