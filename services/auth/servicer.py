"""mdw.auth.v1.AuthService: what services ask about keys and calls."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.auth.convert import to_key, to_principal
from services.kit import checks, entries, keys
from services.kit.errors import InvalidArgument
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from services.auth.store.audit import AuditStore
    from services.auth.validation import Validation

MAX_CALLS = 512
KINDS = {auth_pb2.RecordCallsRequest.READS: entries.READS, auth_pb2.RecordCallsRequest.CHANGES: entries.CHANGES}
HIGHEST_CODE = 16
MAX_COUNT = 1_000_000_000
MAX_MICROS = 10**15


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """mdw.auth.v1.AuthService, in the order of the proto."""

    def __init__(self, *, validation: Validation, audit: AuditStore) -> None:
        self._validation = validation
        self._audit = audit

    @scopes("service", recorded=False)
    async def ValidateKey(self, request: auth_pb2.ValidateKeyRequest, context: Any) -> auth_pb2.ValidateKeyResponse:
        row = await self._validation.find(request.secret)
        if row is None or (request.peer and not to_principal(row).admits(_peer("peer", request.peer))):
            return auth_pb2.ValidateKeyResponse()
        return auth_pb2.ValidateKeyResponse(key=to_key(row))

    @scopes("service", recorded=False)
    async def RecordCalls(self, request: auth_pb2.RecordCallsRequest, context: Any) -> auth_pb2.RecordCallsResponse:
        writer = checks.uuid("writer", request.writer)
        if request.kind not in KINDS:
            raise InvalidArgument("kind", "must be READS or CHANGES")
        if request.seq < 1:
            raise InvalidArgument("seq", "begins at 1")
        service = checks.text("service", request.service, maximum=63)
        checks.integer("calls", len(request.calls), minimum=1, maximum=MAX_CALLS)
        rows = [_entry(index, one) for index, one in enumerate(request.calls)]
        refused = await self._audit.record(writer, KINDS[request.kind], request.seq, service, rows)
        return auth_pb2.RecordCallsResponse(refused_call_ids=[str(call_id) for call_id in refused])


def _entry(index: int, call: auth_pb2.CallRecord) -> entries.Entry:
    at = f"calls[{index}]"
    return entries.Entry(
        call_id=checks.uuid(f"{at}.call_id", call.call_id),
        key_id=checks.uuid(f"{at}.key_id", call.key_id) if call.key_id else None,
        preview=entries.clean(call.key_preview, keys.PREVIEW_LENGTH),
        method=checks.text(f"{at}.method", call.method, maximum=200),
        scopes=" ".join(call.scopes),
        code=checks.integer(f"{at}.code", call.code, minimum=entries.CHECK_ONLY, maximum=HIGHEST_CODE),
        reason=entries.clean(call.reason, 200),
        peer=_peer(f"{at}.peer", call.peer),
        request_id=entries.clean(call.request_id, 100),
        duration_us=checks.integer(f"{at}.duration", call.duration.ToMicroseconds(), minimum=0, maximum=MAX_MICROS),
        messages=checks.integer(f"{at}.messages", call.messages, minimum=0, maximum=MAX_MICROS),
        call_count=checks.integer(f"{at}.call_count", call.call_count, minimum=0, maximum=MAX_COUNT),
    )


def _peer(field: str, value: str) -> str:
    """Returns an address in the form the database compares; '' stays ''."""
    if not value:
        return ""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise InvalidArgument(field, "is no IP address") from None
