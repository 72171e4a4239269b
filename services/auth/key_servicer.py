"""mdw.auth.v1.KeyService: keys for people and services, and the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.auth import requests
from services.auth.convert import to_audit_entry, to_key, to_report
from services.auth.housekeeping import log_key
from services.auth.store.audit import Filters
from services.auth.store.keys import Changes, NewKey
from services.auth.verifying import NotedHead
from services.kit import calls, checks, keys, paging
from services.kit.entries import CHANGES, READS
from services.kit.errors import FailedPrecondition, InvalidArgument
from services.kit.scopes import scopes
from services.kit.status import CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from services.auth.reading import AuditReader
    from services.auth.store.keys import KeyRow, KeyStore
    from services.auth.verifying import Verifier
    from services.kit.db import Connection
    from services.kit.paging import PageTokens
    from services.kit.recorder import Recorder
    from services.kit.requests import Requests

CLEARABLE = ("expire_time", "max_calls_per_second", "max_streams")
CODE_NUMBERS = {code.name: number for number, code in CODES.items()}


class KeyServicer(auth_pb2_grpc.KeyServiceServicer):
    """mdw.auth.v1.KeyService, in the order of the proto."""

    def __init__(
        self,
        *,
        store: KeyStore,
        recorder: Recorder,
        requests: Requests,
        tokens: PageTokens,
        reader: AuditReader,
        verifier: Verifier,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._requests = requests
        self._tokens = tokens
        self._reader = reader
        self._verifier = verifier
        self._changed = changed

    @scopes("keys.write")
    async def CreateKey(self, request: auth_pb2.CreateKeyRequest, context: Any) -> auth_pb2.CreateKeyResponse:
        call = calls.current()
        secret = keys.new_secret()
        new = _new_key(request, secret, call.key_id)
        requests.require_no_wider(new.scopes, call.key_scopes)
        async with self._recorder.key_change(call) as conn:
            stored = await self._requests.claim(conn, call, request.request_id, _body(request))
            if stored is not None:
                return auth_pb2.CreateKeyResponse.FromString(stored)
            await self._store.insert(conn, new)
            answer = auth_pb2.CreateKeyResponse(key=to_key(await self._store.living(conn, new.key_id)))
            await self._requests.store(conn, call, request.request_id, _body(answer))
        self._tell(answer.key)
        answer.secret = secret
        return answer

    @scopes("keys.read")
    async def GetKey(self, request: auth_pb2.GetKeyRequest, context: Any) -> auth_pb2.GetKeyResponse:
        return auth_pb2.GetKeyResponse(key=to_key(await self._store.get(checks.uuid("key_id", request.key_id))))

    @scopes("keys.read")
    async def ListKeys(self, request: auth_pb2.ListKeysRequest, context: Any) -> auth_pb2.ListKeysResponse:
        size = paging.page_size(request.page_size)
        filters = b"active" if request.active_only else b""
        position = self._tokens.read(request.page_token, "ListKeys", filters)
        after = _after(position) if position else None
        rows = await self._store.page(active_only=request.active_only, after=after, limit=size + 1)
        answer = auth_pb2.ListKeysResponse(keys=[to_key(row) for row in rows[:size]])
        if len(rows) > size:
            last = rows[size - 1]
            where = (checks.micros(last.create_time), str(last.key_id))
            answer.next_page_token = self._tokens.make("ListKeys", filters, where)
        return answer

    @scopes("keys.write")
    async def UpdateKey(self, request: auth_pb2.UpdateKeyRequest, context: Any) -> auth_pb2.UpdateKeyResponse:
        key_id = checks.uuid("key.key_id", request.key.key_id)
        present = [field.name for field, _ in request.key.ListFields()]
        paths = requests.update_paths(request.update_mask.paths, present)
        given = _given(request.key, paths)

        async def change(conn: Connection, before: KeyRow) -> None:
            after = _merged(before, given)
            requests.require_no_wider(before.scopes, calls.current().key_scopes)
            requests.require_narrower(after.scopes, frozenset(before.scopes))
            await self._store.update(conn, key_id, after)

        return auth_pb2.UpdateKeyResponse(key=await self._change(key_id, change))

    @scopes("keys.write")
    async def RevokeKey(self, request: auth_pb2.RevokeKeyRequest, context: Any) -> auth_pb2.RevokeKeyResponse:
        key_id = checks.uuid("key_id", request.key_id)

        async def change(conn: Connection, _before: KeyRow) -> None:
            await self._store.revoke(conn, key_id)

        return auth_pb2.RevokeKeyResponse(key=await self._change(key_id, change))

    @scopes("keys.write")
    async def RestoreKey(self, request: auth_pb2.RestoreKeyRequest, context: Any) -> auth_pb2.RestoreKeyResponse:
        key_id = checks.uuid("key_id", request.key_id)

        async def change(conn: Connection, before: KeyRow) -> None:
            requests.require_no_wider(before.scopes, calls.current().key_scopes)
            await self._store.restore(conn, key_id)

        return auth_pb2.RestoreKeyResponse(key=await self._change(key_id, change))

    @scopes("keys.write")
    async def RotateKey(self, request: auth_pb2.RotateKeyRequest, context: Any) -> auth_pb2.RotateKeyResponse:
        call = calls.current()
        key_id = checks.uuid("key_id", request.key_id)
        overlap = requests.overlap(request.overlap) if request.HasField("overlap") else requests.DEFAULT_OVERLAP
        expiry = requests.expire_time(request.expire_time) if request.HasField("expire_time") else None
        secret = keys.new_secret()
        async with self._recorder.key_change(call) as conn:
            stored = await self._requests.claim(conn, call, request.request_id, _body(request))
            if stored is not None:
                return auth_pb2.RotateKeyResponse.FromString(stored)
            old = await self._store.living(conn, key_id)
            answer = await self._rotate(conn, old, overlap, _successor(old, secret, expiry, call.key_id))
            await self._requests.store(conn, call, request.request_id, _body(answer))
        self._tell(answer.key)
        self._tell(answer.old_key)
        answer.secret = secret
        return answer

    @scopes("keys.write")
    async def DeleteKey(self, request: auth_pb2.DeleteKeyRequest, context: Any) -> auth_pb2.DeleteKeyResponse:
        key_id = checks.uuid("key_id", request.key_id)

        async def change(conn: Connection, _before: KeyRow) -> None:
            await self._store.delete(conn, key_id)

        await self._change(key_id, change, deleted_too=True)
        return auth_pb2.DeleteKeyResponse()

    @scopes("audit.read")
    async def ListAuditEntries(
        self, request: auth_pb2.ListAuditEntriesRequest, context: Any
    ) -> auth_pb2.ListAuditEntriesResponse:
        filters = _filters(request)
        start = checks.time("start_time", request.start_time) if request.HasField("start_time") else None
        end = checks.time("end_time", request.end_time) if request.HasField("end_time") else None
        if start and end and end <= start:
            raise InvalidArgument("end_time", "must lie after start_time")
        page = await self._reader.page(
            filters, start=start, end=end, size=paging.page_size(request.page_size), token=request.page_token
        )
        return auth_pb2.ListAuditEntriesResponse(
            entries=[to_audit_entry(row) for row in page.rows], next_page_token=page.next_token
        )

    @scopes("audit.read")
    async def VerifyAuditLog(
        self, request: auth_pb2.VerifyAuditLogRequest, context: Any
    ) -> auth_pb2.VerifyAuditLogResponse:
        start = checks.time("start_time", request.start_time) if request.HasField("start_time") else None
        end = checks.time("end_time", request.end_time) if request.HasField("end_time") else None
        heads = [_noted(index, head) for index, head in enumerate(request.heads)]
        return to_report(await self._verifier.verify(start=start, end=end, heads=heads))

    async def _change(
        self, key_id: UUID, change: Callable[[Connection, KeyRow], Any], *, deleted_too: bool = False
    ) -> auth_pb2.Key:
        """Changes one key under the audit lock, and tells this process's cache and the log."""
        find = self._store.any if deleted_too else self._store.living
        async with self._recorder.key_change(calls.current()) as conn:
            before = await find(conn, key_id)
            await change(conn, before)
            await self._store.require_administrator(conn, before)
            after = to_key(await self._store.any(conn, key_id))
        if after.version != before.version:
            self._tell(after)
        return after

    async def _rotate(
        self, conn: Connection, old: KeyRow, overlap: timedelta, new: NewKey
    ) -> auth_pb2.RotateKeyResponse:
        if old.state == "REVOKED":
            raise FailedPrecondition("KEY_REVOKED", "the key is revoked; restore it first", key_id=str(old.key_id))
        requests.require_no_wider(old.scopes, calls.current().key_scopes)
        await self._store.insert(conn, new)
        await self._store.end(conn, old.key_id, overlap)
        await self._store.require_administrator(conn, old)
        return auth_pb2.RotateKeyResponse(
            key=to_key(await self._store.living(conn, new.key_id)),
            old_key=to_key(await self._store.living(conn, old.key_id)),
        )

    def _tell(self, key: auth_pb2.Key) -> None:
        """After the commit: the cache forgets, and the log keeps what a restored backup would not know."""
        self._changed()
        log_key(key.key_id, key.version, auth_pb2.Key.State.Name(key.state))


def _after(position: Sequence[str | int | None]) -> tuple[datetime, UUID]:
    """Returns (create_time, key_id) of the last key of the page before."""
    return checks.from_micros(int(position[0] or 0)), UUID(str(position[1]))


def _new_key(request: auth_pb2.CreateKeyRequest, secret: str, created_by: UUID | None) -> NewKey:
    limit = request.max_calls_per_second if request.HasField("max_calls_per_second") else None
    streams = request.max_streams if request.HasField("max_streams") else None
    return NewKey(
        key_id=uuid4(),
        display_name=requests.display_name(request.display_name),
        preview=keys.preview(secret),
        digest=keys.digest(secret),
        scopes=requests.scopes(request.scopes),
        allowed_peers=requests.allowed_peers(request.allowed_peers),
        max_calls_per_second=None if limit is None else requests.calls_per_second(limit),
        max_streams=None if streams is None else requests.streams(streams),
        created_by=created_by,
        expire_time=requests.expire_time(request.expire_time) if request.HasField("expire_time") else None,
    )


def _successor(old: KeyRow, secret: str, expire_time: Any, created_by: UUID | None) -> NewKey:
    return NewKey(
        key_id=uuid4(),
        display_name=old.display_name,
        preview=keys.preview(secret),
        digest=keys.digest(secret),
        scopes=old.scopes,
        allowed_peers=old.allowed_peers,
        max_calls_per_second=old.max_calls_per_second,
        max_streams=old.max_streams,
        created_by=created_by,
        rotated_from=old.key_id,
        expire_time=expire_time,
    )


def _given(key: auth_pb2.Key, paths: tuple[str, ...]) -> dict[str, Any]:
    """Returns the checked values of the named fields; one that is named and not set is cleared."""
    read: dict[str, Callable[[], Any]] = {
        "display_name": lambda: requests.display_name(key.display_name, "key.display_name"),
        "scopes": lambda: requests.scopes(key.scopes, "key.scopes"),
        "allowed_peers": lambda: requests.allowed_peers(key.allowed_peers, "key.allowed_peers"),
        "expire_time": lambda: requests.expire_time(key.expire_time, "key.expire_time"),
        "max_calls_per_second": lambda: requests.calls_per_second(key.max_calls_per_second, "key.max_calls_per_second"),
        "max_streams": lambda: requests.streams(key.max_streams, "key.max_streams"),
    }
    present = {field.name for field, _ in key.ListFields()}
    return {path: None if path in CLEARABLE and path not in present else read[path]() for path in paths}


def _merged(before: KeyRow, given: dict[str, Any]) -> Changes:
    return Changes(
        display_name=given.get("display_name", before.display_name),
        scopes=given.get("scopes", before.scopes),
        allowed_peers=given.get("allowed_peers", before.allowed_peers),
        max_calls_per_second=given.get("max_calls_per_second", before.max_calls_per_second),
        max_streams=given.get("max_streams", before.max_streams),
        expire_time=given.get("expire_time", before.expire_time),
    )


def _filters(request: auth_pb2.ListAuditEntriesRequest) -> Filters:
    unknown = [code for code in request.codes if code not in CODE_NUMBERS]
    if unknown:
        raise InvalidArgument("codes", f"{unknown[0][:40]!r} is no status, such as UNAUTHENTICATED")
    return Filters(
        key_id=checks.uuid("key_id", request.key_id) if request.key_id else None,
        service=checks.text("service", request.service, minimum=0, maximum=63),
        method=checks.text("method", request.method, minimum=0, maximum=200),
        codes=[CODE_NUMBERS[code] for code in request.codes] or None,
    )


def _noted(index: int, head: auth_pb2.AuditHead) -> NotedHead:
    writer = checks.uuid(f"heads[{index}].writer", head.writer)
    if head.kind not in (READS, CHANGES):
        raise InvalidArgument(f"heads[{index}].kind", "must be reads or changes")
    return NotedHead((str(writer), head.kind), head.seq, head.hash)


def _body(message: Any) -> bytes:
    """Returns the bytes that a repeat of a request has, too."""
    return bytes(message.SerializeToString(deterministic=True))
