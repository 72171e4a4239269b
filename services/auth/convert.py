"""Rows to messages of mdw.auth.v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw.auth.v1 import auth_pb2
from services.kit import status
from services.kit.checks import timestamp
from services.kit.principals import Principal

if TYPE_CHECKING:
    from services.auth.store.audit import AuditRow
    from services.auth.store.keys import KeyRow
    from services.auth.verifying import Report


def to_key(row: KeyRow) -> auth_pb2.Key:
    key = auth_pb2.Key(
        key_id=str(row.key_id),
        display_name=row.display_name,
        preview=row.preview,
        scopes=row.scopes,
        state=auth_pb2.Key.State.Value(row.state),
        allowed_peers=[str(network) for network in row.allowed_peers],
        max_calls_per_second=row.max_calls_per_second,
        max_streams=row.max_streams,
        version=row.version,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        expire_time=timestamp(row.expire_time),
        revoke_time=timestamp(row.revoke_time),
        last_use_time=timestamp(row.last_use_time),
        created_by=str(row.created_by or ""),
        rotated_from=str(row.rotated_from or ""),
    )
    if row.call_count is not None:
        key.request_count = row.call_count
    return key


def to_principal(row: KeyRow) -> Principal:
    return Principal(
        key_id=row.key_id,
        preview=row.preview,
        scopes=frozenset(row.scopes),
        allowed_peers=row.allowed_peers,
        max_calls_per_second=row.max_calls_per_second,
        max_streams=row.max_streams,
    )


def to_audit_entry(row: AuditRow) -> auth_pb2.AuditEntry:
    entry = auth_pb2.AuditEntry(
        entry_id=row.id,
        time=timestamp(row.time),
        call_id=str(row.call_id),
        key_id=str(row.key_id or ""),
        key_preview=row.key_preview,
        service=row.service,
        method=row.method,
        code=status.name(row.code),
        reason=row.reason,
        peer=row.peer,
        request_id=row.request_id,
        messages=row.messages,
        call_count=row.call_count,
    )
    entry.duration.FromMicroseconds(row.duration_us)
    return entry


def to_report(report: Report) -> auth_pb2.VerifyAuditLogResponse:
    findings = [
        auth_pb2.AuditFinding(
            kind=auth_pb2.AuditFinding.Kind.Value(found.kind.name),
            writer=found.chain[0],
            chain=found.chain[1],
            seq=found.seq,
            time=timestamp(found.time),
            detail=found.detail,
        )
        for found in report.findings
    ]
    return auth_pb2.VerifyAuditLogResponse(findings=findings, batches=report.batches, rows=report.rows)
