"""API keys and the audit log: KeyService as methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from mdw.auth.v1 import auth_pb2 as pb
from mdw_client import words
from mdw_client.calls import Call, Pages, Part, R
from mdw_client.methods import listing, operation

if TYPE_CHECKING:
    from datetime import timedelta

    from mdw_client.words import Many, Time

_RPC = "/mdw.auth.v1.KeyService/"
_VERIFY_TIMEOUT = 600.0


class Keys(Part[R]):
    """API keys. Their text is in the answer of `create` and `rotate` and nowhere else."""

    @operation
    def create(
        self,
        display_name: str,
        scopes: Many,
        *,
        expire: Time | None = None,
        allowed_peers: Many | None = None,
        max_calls_per_second: int | None = None,
        max_streams: int | None = None,
        request_id: str | None = None,
    ) -> Call[pb.CreateKeyResponse]:
        """Creates a key; `.secret` of the answer is its text, shown once."""
        request = pb.CreateKeyRequest(
            display_name=display_name,
            scopes=words.many(scopes),
            expire_time=words.instant(expire, "expire"),
            allowed_peers=words.many(allowed_peers),
            max_calls_per_second=max_calls_per_second,
            max_streams=max_streams,
            request_id=words.request_id(request_id),
        )
        return Call(_RPC + "CreateKey", request, lambda answer: answer)

    @operation
    def get(self, key_id: str) -> Call[pb.Key]:
        """Returns one key, without its text."""
        return Call(_RPC + "GetKey", pb.GetKeyRequest(key_id=key_id), lambda answer: answer.key)

    @listing
    def list(self, *, active_only: bool = False, page_size: int = 0) -> Pages[pb.Key]:
        """Iterates over the keys, newest first."""
        request = pb.ListKeysRequest(active_only=active_only, page_size=page_size)
        return Pages(_RPC + "ListKeys", request, lambda answer: answer.keys)

    @operation
    def update(self, key: pb.Key, fields: Many | None = None) -> Call[pb.Key]:
        """Changes a key's name, scopes, peers, expiry or limits; `fields` that are named and not set are cleared."""
        mask = FieldMask(paths=words.many(fields)) if fields is not None else None
        request = pb.UpdateKeyRequest(key=key, update_mask=mask)
        return Call(_RPC + "UpdateKey", request, lambda answer: answer.key)

    @operation
    def revoke(self, key_id: str) -> Call[pb.Key]:
        """Revokes a key: no call that starts after this has returned succeeds with it."""
        return Call(_RPC + "RevokeKey", pb.RevokeKeyRequest(key_id=key_id), lambda answer: answer.key)

    @operation
    def restore(self, key_id: str) -> Call[pb.Key]:
        """Makes a revoked key valid again."""
        return Call(_RPC + "RestoreKey", pb.RestoreKeyRequest(key_id=key_id), lambda answer: answer.key)

    @operation
    def rotate(
        self,
        key_id: str,
        *,
        overlap: timedelta | float | None = None,
        expire: Time | None = None,
        request_id: str | None = None,
    ) -> Call[pb.RotateKeyResponse]:
        """Creates a successor; the old key stays valid for `overlap` (seconds or a timedelta; default 24 hours)."""
        request = pb.RotateKeyRequest(
            key_id=key_id,
            overlap=words.duration(overlap),
            expire_time=words.instant(expire, "expire"),
            request_id=words.request_id(request_id),
        )
        return Call(_RPC + "RotateKey", request, lambda answer: answer)

    @operation
    def delete(self, key_id: str) -> Call[None]:
        """Deletes a key for good."""
        return Call(_RPC + "DeleteKey", pb.DeleteKeyRequest(key_id=key_id), lambda _: None)


class Audit(Part[R]):
    """The audit log: every call of every service, refused ones too."""

    @listing
    def list(
        self,
        *,
        key_id: str = "",
        service: str = "",
        method: str = "",
        codes: Many | None = None,
        start: Time | None = None,
        end: Time | None = None,
        page_size: int = 0,
    ) -> Pages[pb.AuditEntry]:
        """Iterates over audited calls, newest first; `start` inclusive, `end` exclusive."""
        request = pb.ListAuditEntriesRequest(
            key_id=key_id,
            service=service,
            method=method,
            codes=words.many(codes),
            start_time=words.instant(start, "start"),
            end_time=words.instant(end, "end"),
            page_size=page_size,
        )
        return Pages(_RPC + "ListAuditEntries", request, lambda answer: answer.entries)

    @operation
    def verify(
        self, *, start: Time | None = None, end: Time | None = None, timeout: float = _VERIFY_TIMEOUT
    ) -> Call[pb.VerifyAuditLogResponse]:
        """Recomputes the log's hash chains and says what was edited or removed."""
        request = pb.VerifyAuditLogRequest(start_time=words.instant(start, "start"), end_time=words.instant(end, "end"))
        return Call(_RPC + "VerifyAuditLog", request, lambda answer: answer, timeout)
