# named as the statuses are
"""The exceptions of the client: one family, with the code, the reason and the details of every refused call.

MdwError
 |- ConfigurationError     before any call: a target, key, file or argument that cannot be used
 |   `- ForkedProcessError the client was made in another process
 `- CallError              a call ended with a status: code, reason, metadata, violations, retry_after
     |- InvalidArgument, Unauthenticated, PermissionDenied, NotFound, AlreadyExists, FailedPrecondition, OutOfRange
     `- ResourceExhausted, Aborted, Unavailable, DeadlineExceeded, Cancelled, Unimplemented, Internal
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DETAILS_KEY = "grpc-status-details-bin"


class MdwError(Exception):
    """Anything that this package raises on purpose."""


class ConfigurationError(MdwError, ValueError):
    """A target, key, file or argument cannot be used; nothing was sent."""


class ForkedProcessError(ConfigurationError):
    """The process is a fork of one that used gRPC, whose threads and connections do not come along."""

    def __init__(self) -> None:
        super().__init__(
            "this process was forked after the client was used, which gRPC does not survive: start workers with "
            "multiprocessing.get_context('spawn'), or use the first client in the worker itself"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


@dataclass(frozen=True)
class Violation:
    """A field of the request that breaks its rule."""

    field: str
    description: str


@dataclass(frozen=True)
class Details:
    """What the details of a status say; the reason is one of mdw.type.v1.ErrorReason, or empty."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None


class CallError(MdwError):
    """A call ended with a status other than OK.

    `retry_after` is in seconds, None where the server named none; `target` is the address that was called.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Details | None = None, target: str = "") -> None:
        super().__init__(code, message, details, target)
        details = details or Details()
        self.code = code
        self.message = message
        self.reason = details.reason
        self.metadata = details.metadata
        self.violations = details.violations
        self.retry_after = details.retry_after
        self.target = target

    def __str__(self) -> str:
        text = f"{self.reason or self.code.name}: {self.message}"
        fields = "; ".join(f"{violation.field}: {violation.description}" for violation in self.violations)
        if fields and fields not in text:
            text = f"{text} ({fields})"
        if self.code is grpc.StatusCode.UNAVAILABLE and not self.reason and self.target:
            text = f"{text} (is the service running at {self.target}?)"
        return text


class InvalidArgument(CallError):
    """The request breaks a rule: see violations."""


class Unauthenticated(CallError):
    """No key, or one that is unknown, revoked, expired or deleted."""


class PermissionDenied(CallError):
    """The key is valid and lacks the scope: metadata names it."""


class NotFound(CallError):
    """There is no such thing."""


class AlreadyExists(CallError):
    """There is one already."""


class FailedPrecondition(CallError):
    """The state of things does not allow it now."""


class OutOfRange(CallError):
    """Beyond what the warehouse knows."""


class ResourceExhausted(CallError):
    """Too many calls, or an answer too large."""


class Aborted(CallError):
    """Two changes met; try again."""


class Unavailable(CallError):
    """The service or its database is away, also after the tries that the channel made by itself."""


class DeadlineExceeded(CallError):
    """The call took longer than its timeout."""


class Cancelled(CallError):
    """The call was cancelled."""


class Unimplemented(CallError):
    """The server does not know the method: it is older than this client."""


class Internal(CallError):
    """A fault of the server's; the message has an error id that its log has, too."""


_CLASSES: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def from_rpc_error(error: Any, target: str = "") -> CallError:
    """Turns what a stub raised, blocking or asyncio, into the family's exception."""
    made = _CLASSES.get(error.code(), Internal)
    return made(error.code(), error.details() or "", read_details(error.trailing_metadata()), target)


def read_details(trailing: Any) -> Details:
    """Reads the google.rpc details out of trailing metadata; what cannot be read counts as absent."""
    raw = next((value for key, value in trailing or () if key == DETAILS_KEY), None)
    if raw is None:
        return Details()
    try:
        status = Status.FromString(raw)
    except DecodeError:
        return Details()
    info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    parts = {part.DESCRIPTOR.full_name: part for part in (info, request, retry)}
    for detail in status.details:
        part = parts.get(detail.TypeName())
        if part is not None:
            detail.Unpack(part)
    return Details(
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple(Violation(each.field, each.description) for each in request.field_violations),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
    )
