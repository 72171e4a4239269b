"""Turns errors into gRPC statuses with google.rpc details; the only place that does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.kit.errors import InvalidArgument, MdwError, Retryable

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "mdw"
DETAILS_KEY = "grpc-status-details-bin"
_MAX_TEXT = 500

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def details(error: MdwError) -> bytes:
    """Returns the serialized google.rpc.Status of an error, short enough for the 8 KB of metadata."""
    metadata = {key: _clip(value) for key, value in error.metadata.items()}
    parts: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidArgument):
        violations = [
            BadRequest.FieldViolation(field=_clip(field, 100), description=_clip(description, 150))
            for field, description in error.violations
        ]
        parts.append(BadRequest(field_violations=violations))
    if isinstance(error, Retryable):
        parts.append(RetryInfo(retry_delay=_duration(error.retry_after)))
    status = Status(code=error.code, message=_clip(error.message), details=[_pack(part) for part in parts])
    return bytes(status.SerializeToString())


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MdwError, *metadata: tuple[str, str]) -> None:
    """Ends a call with an error. Always raises.

    `abort`, not `abort_with_status`: OpenTelemetry's wrapper sees only the former.
    """
    trailing: tuple[tuple[str, str | bytes], ...] = (*metadata, (DETAILS_KEY, details(error)))
    await context.abort(CODES[error.code], _clip(error.message), trailing_metadata=trailing)


def name(code: int) -> str:
    """Returns a status' name, for example `NOT_FOUND`."""
    return CODES[code].name if code in CODES else str(code)


def _pack(part: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(part)
    return packed


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1_000_000_000))


def _clip(text: str, length: int = _MAX_TEXT) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
