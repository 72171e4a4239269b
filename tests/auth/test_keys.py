"""KeyService: keys are made, changed and ended."""

# ruff: noqa: PT017 - whether a key works is what is asked, not that it fails

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.kit import keys
from tests.support import info, make_key, reason, violations, with_key

Key = auth_pb2.Key


class Keys:
    """KeyService as the holder of one key sees it."""

    def __init__(self, channel, secret: str) -> None:
        self._stub = auth_pb2_grpc.KeyServiceStub(channel)
        self._metadata = with_key(secret)

    def __getattr__(self, name):
        def call(**fields):
            return getattr(self._stub, name)(getattr(auth_pb2, f"{name}Request")(**fields), metadata=self._metadata)

        return call

    async def make(self, *scopes, **fields):
        return await self.CreateKey(display_name="made", scopes=scopes or ["keys.read"], **fields)

    async def state(self, key_id: str) -> int:
        return (await self.GetKey(key_id=key_id)).key.state


@pytest.fixture
def root(channel, admin) -> Keys:
    return Keys(channel, admin)


def ahead(**span) -> Timestamp:
    instant = Timestamp()
    instant.FromDatetime(datetime.now(UTC) + timedelta(**span))
    return instant


async def refused(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def usable(channel, secret: str) -> bool:
    try:
        await Keys(channel, secret).ListKeys()
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        return False
    return True


async def test_a_created_key_works_at_once_and_its_secret_is_shown_once(channel, root):
    created = await root.make("keys.read", max_streams=3, allowed_peers=["127.0.0.0/8", "::1"])
    assert keys.is_well_formed(created.secret)
    assert created.key.preview == created.secret[:12]
    assert list(created.key.allowed_peers) == ["127.0.0.0/8", "::1/128"]
    assert await usable(channel, created.secret)
    got = await root.GetKey(key_id=created.key.key_id)
    assert (got.key.display_name, got.key.state, got.key.max_streams) == ("made", Key.ACTIVE, 3)
    assert created.secret not in str(got)


async def test_only_a_hash_is_stored(database, root):
    created = await root.make()
    conn = await asyncpg.connect(database.admin_url)
    assert await conn.fetchval(
        "SELECT digest FROM auth.keys WHERE key_id::text = $1", created.key.key_id
    ) == keys.digest(created.secret)
    dump = await conn.fetchval("SELECT jsonb_agg(to_jsonb(k))::text FROM auth.keys k")
    assert created.secret not in dump
    await conn.close()


async def test_a_revoked_key_is_refused_and_a_restored_one_works_again(channel, root):
    created = await root.make()
    assert await usable(channel, created.secret)
    for _ in range(2):
        assert (await root.RevokeKey(key_id=created.key.key_id)).key.state == Key.REVOKED
        assert not await usable(channel, created.secret)
    for _ in range(2):
        assert (await root.RestoreKey(key_id=created.key.key_id)).key.state == Key.ACTIVE
        assert await usable(channel, created.secret)


async def test_repeating_a_revocation_changes_nothing(root):
    created = await root.make()
    first = await root.RevokeKey(key_id=created.key.key_id)
    assert (await root.RevokeKey(key_id=created.key.key_id)).key == first.key


async def test_a_key_may_revoke_itself(channel, root):
    created = await root.make("keys.write")
    assert (await Keys(channel, created.secret).RevokeKey(key_id=created.key.key_id)).key.state == Key.REVOKED
    assert (await refused(Keys(channel, created.secret).RevokeKey(key_id=created.key.key_id))).code() == (
        grpc.StatusCode.UNAUTHENTICATED
    )


async def test_a_deleted_key_is_gone_for_good_and_its_calls_stay(channel, root):
    created = await root.make()
    assert await usable(channel, created.secret)
    for _ in range(2):
        await root.DeleteKey(key_id=created.key.key_id)
    assert not await usable(channel, created.secret)
    assert await root.state(created.key.key_id) == Key.DELETED
    for call in (root.RestoreKey, root.RevokeKey, root.RotateKey):
        assert reason(await refused(call(key_id=created.key.key_id))) == "KEY_NOT_FOUND"
    changed = Key(key_id=created.key.key_id, display_name="x")
    assert reason(await refused(root.UpdateKey(key=changed))) == "KEY_NOT_FOUND"
    assert created.key.key_id not in [key.key_id for key in (await root.ListKeys()).keys]
    entries = (await root.ListAuditEntries(key_id=created.key.key_id)).entries
    assert {entry.key_preview for entry in entries} == {created.key.preview}


async def test_a_key_that_never_existed_is_not_found(root):
    for call in (root.GetKey, root.RevokeKey, root.DeleteKey, root.RestoreKey, root.RotateKey):
        assert reason(await refused(call(key_id=str(uuid4())))) == "KEY_NOT_FOUND"


async def test_an_expired_key_is_refused(database, channel, root):
    created = await root.make(expire_time=ahead(hours=1))
    assert await usable(channel, created.secret)
    conn = await asyncpg.connect(database.admin_url)
    await conn.execute("UPDATE auth.keys SET expire_time = now() WHERE key_id::text = $1", created.key.key_id)
    await conn.close()
    assert not await usable(channel, created.secret)
    assert await root.state(created.key.key_id) == Key.EXPIRED
    assert created.key.key_id not in [key.key_id for key in (await root.ListKeys(active_only=True)).keys]


async def test_rotation_gives_a_successor_and_an_overlap(channel, root):
    old = await root.make("keys.read", max_calls_per_second=77)
    new = await root.RotateKey(key_id=old.key.key_id)
    assert new.key.rotated_from == old.key.key_id
    assert (new.key.scopes, new.key.max_calls_per_second) == (old.key.scopes, 77)
    assert await usable(channel, old.secret)
    assert await usable(channel, new.secret)
    left = new.old_key.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < left < timedelta(hours=25)


async def test_rotation_without_an_overlap_ends_the_old_key_at_once(channel, root):
    old = await root.make()
    new = await root.RotateKey(key_id=old.key.key_id, overlap={})
    assert not await usable(channel, old.secret)
    assert await usable(channel, new.secret)


async def test_rotation_never_lengthens_the_old_keys_life(root):
    old = await root.make(expire_time=ahead(hours=1))
    new = await root.RotateKey(key_id=old.key.key_id)
    assert new.old_key.expire_time == old.key.expire_time


async def test_a_revoked_key_cannot_be_rotated(root):
    old = await root.make()
    await root.RevokeKey(key_id=old.key.key_id)
    assert reason(await refused(root.RotateKey(key_id=old.key.key_id))) == "KEY_REVOKED"


async def test_update_changes_the_fields_that_are_set(root):
    created = await root.make(max_streams=3)
    changed = await root.UpdateKey(key=Key(key_id=created.key.key_id, display_name="new name"))
    assert (changed.key.display_name, changed.key.max_streams) == ("new name", 3)
    assert changed.key.version == created.key.version + 1


async def test_update_clears_what_the_mask_names_and_the_key_lacks(root):
    created = await root.make(max_streams=3, expire_time=ahead(days=1))
    mask = FieldMask(paths=["max_streams", "expire_time"])
    changed = await root.UpdateKey(key=Key(key_id=created.key.key_id), update_mask=mask)
    assert not changed.key.HasField("max_streams")
    assert not changed.key.HasField("expire_time")


async def test_update_narrows_scopes_and_never_widens_them(channel, root):
    created = await root.make("keys.read", "audit.read")
    narrowed = await root.UpdateKey(key=Key(key_id=created.key.key_id, scopes=["audit.read"]))
    assert list(narrowed.key.scopes) == ["audit.read"]
    error = await refused(Keys(channel, created.secret).ListKeys())
    assert reason(error) == "SCOPE_MISSING"
    error = await refused(root.UpdateKey(key=Key(key_id=created.key.key_id, scopes=["keys.read"])))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_TOO_WIDE")
    assert "never widened by keys.read" in error.details()


async def test_an_administrators_key_is_narrowed_too_and_gets_no_service_scope(root):
    made = await root.make("admin")
    error = await refused(root.UpdateKey(key=Key(key_id=made.key.key_id, scopes=["admin", "service"])))
    assert (reason(error), info(error).metadata["scopes"]) == ("SCOPE_TOO_WIDE", "service")
    narrowed = await root.UpdateKey(key=Key(key_id=made.key.key_id, scopes=["keys.read", "bars.read"]))
    assert list(narrowed.key.scopes) == ["keys.read", "bars.read"]


async def test_nobody_makes_a_key_wider_than_their_own(channel, root):
    maker = Keys(channel, (await root.make("keys.write", "keys.read")).secret)
    error = await refused(maker.CreateKey(display_name="wide", scopes=["admin"]))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_TOO_WIDE")
    wide = await root.make("bars.read")
    assert reason(await refused(maker.RotateKey(key_id=wide.key.key_id))) == "SCOPE_TOO_WIDE"
    await root.RevokeKey(key_id=wide.key.key_id)
    assert reason(await refused(maker.RestoreKey(key_id=wide.key.key_id))) == "SCOPE_TOO_WIDE"
    changed = Key(key_id=wide.key.key_id, expire_time=ahead(days=999))
    assert reason(await refused(maker.UpdateKey(key=changed))) == "SCOPE_TOO_WIDE"
    await maker.CreateKey(display_name="as wide", scopes=["keys.write"])


async def test_an_administrator_may_grant_service_and_not_use_it(channel, root, admin):
    made = await root.make("service")
    stub = auth_pb2_grpc.AuthServiceStub(channel)
    request = auth_pb2.ValidateKeyRequest(secret=made.secret)
    assert (await stub.ValidateKey(request, metadata=with_key(made.secret))).key.key_id == made.key.key_id
    assert reason(await refused(stub.ValidateKey(request, metadata=with_key(admin)))) == "SCOPE_MISSING"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"display_name": "", "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": "x" * 64, "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": "a\x00b", "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": "a\nb", "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": " a", "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": "right\u202eleft", "scopes": ["keys.read"]}, "display_name"),
        ({"display_name": "a", "scopes": []}, "scopes"),
        ({"display_name": "a", "scopes": ["everything"]}, "scopes"),
        ({"display_name": "a", "scopes": ["keys.read"], "allowed_peers": ["10.0.0.1/8"]}, "allowed_peers"),
        ({"display_name": "a", "scopes": ["keys.read"], "allowed_peers": ["10.0.0.0/8"] * 33}, "allowed_peers"),
        ({"display_name": "a", "scopes": ["keys.read"], "max_streams": 0}, "max_streams"),
        ({"display_name": "a", "scopes": ["keys.read"], "max_calls_per_second": -1}, "max_calls_per_second"),
        ({"display_name": "a", "scopes": ["keys.read"], "expire_time": Timestamp(seconds=1)}, "expire_time"),
        ({"display_name": "a", "scopes": ["keys.read"], "expire_time": Timestamp(seconds=2**60)}, "expire_time"),
        ({"display_name": "a", "scopes": ["keys.read"], "expire_time": Timestamp(nanos=-1)}, "expire_time"),
        ({"display_name": "a", "scopes": ["keys.read"], "request_id": "no uuid"}, "request_id"),
    ],
)
async def test_a_bad_field_is_named(root, fields, field):
    error = await refused(root.CreateKey(**fields))
    assert (error.code(), violations(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_bad_ids_masks_and_spans_are_named(root):
    created = await root.make()
    key_id = created.key.key_id
    assert violations(await refused(root.GetKey(key_id="x"))) == ["key_id"]
    assert violations(await refused(root.GetKey())) == ["key_id"]
    assert violations(await refused(root.UpdateKey(key=Key(key_id=key_id), update_mask={"paths": ["version"]}))) == [
        "update_mask"
    ]
    assert violations(await refused(root.RotateKey(key_id=key_id, overlap={"seconds": -1}))) == ["overlap"]
    assert violations(await refused(root.RotateKey(key_id=key_id, overlap={"seconds": 10**9}))) == ["overlap"]
    # More than a timedelta holds: this was INTERNAL.
    assert violations(await refused(root.RotateKey(key_id=key_id, overlap={"seconds": 2**53}))) == ["overlap"]
    assert violations(await refused(root.ListKeys(page_size=-1))) == ["page_size"]


async def test_lists_page_through_all_keys_newest_first(root):
    made = [(await root.make()).key.key_id for _ in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        page = await root.ListKeys(page_size=3, page_token=token)
        seen += [key.key_id for key in page.keys]
        token = page.next_page_token
        if not token:
            break
        await root.make()  # a newer key disturbs no page
    assert [key_id for key_id in seen if key_id in made] == made[::-1]
    assert len(seen) == len(set(seen)) == 8


async def test_a_page_token_serves_only_its_own_filters(root):
    for _ in range(3):
        await root.make()
    token = (await root.ListKeys(page_size=1)).next_page_token
    assert reason(await refused(root.ListKeys(page_size=1, page_token=token, active_only=True))) == "PAGE_TOKEN_INVALID"
    assert reason(await refused(root.ListKeys(page_token=token[:-1]))) == "PAGE_TOKEN_INVALID"


async def test_usage_is_exact(channel, root):
    created = await root.make()
    await asyncio.gather(*(usable(channel, created.secret) for _ in range(25)))
    key = (await root.GetKey(key_id=created.key.key_id)).key
    assert key.request_count == 25
    assert datetime.now(UTC) - key.last_use_time.ToDatetime(UTC) < timedelta(minutes=1)


async def test_a_repeated_request_gives_the_same_key_without_its_secret(root):
    request_id = str(uuid4())
    first = await root.make(request_id=request_id)
    second = await root.make(request_id=request_id)
    assert first.secret
    assert not second.secret
    assert second.key == first.key
    rotated = await root.RotateKey(key_id=first.key.key_id, request_id=request_id)
    again = await root.RotateKey(key_id=first.key.key_id, request_id=request_id)
    assert again.key == rotated.key
    assert not again.secret
    assert len((await root.ListKeys()).keys) == 3


async def test_a_request_id_belongs_to_one_request(root):
    request_id = str(uuid4())
    await root.make(request_id=request_id)
    error = await refused(root.make("audit.read", request_id=request_id))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_many_equal_requests_at_once_make_one_key(root):
    request_id = str(uuid4())
    answers = await asyncio.gather(*(root.make(request_id=request_id) for _ in range(20)))
    assert len({answer.key.key_id for answer in answers}) == 1
    assert sum(bool(answer.secret) for answer in answers) == 1


async def test_the_last_lasting_administrator_stays(database, root):
    mine = next(key for key in (await root.ListKeys()).keys if "admin" in key.scopes)
    attempts = [
        root.RevokeKey(key_id=mine.key_id),
        root.DeleteKey(key_id=mine.key_id),
        root.UpdateKey(key=Key(key_id=mine.key_id, scopes=["keys.write"])),
        root.UpdateKey(key=Key(key_id=mine.key_id, expire_time=ahead(days=1))),
        root.RotateKey(key_id=mine.key_id, expire_time=ahead(days=1)),
    ]
    for attempt in attempts:
        error = await refused(attempt)
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMINISTRATOR")
    await root.RotateKey(key_id=mine.key_id)


@pytest.mark.parametrize("way", ["RevokeKey", "DeleteKey"])
async def test_of_administrators_that_end_each_other_at_once_one_stays(database, channel, root, way):
    ids = [uuid4() for _ in range(5)]
    secrets = [await make_key(database, "admin", key_id=key_id) for key_id in ids]
    mine = (await root.ListKeys()).keys[-1]
    calls = [getattr(Keys(channel, secret), way)(key_id=str(ids[i - 1])) for i, secret in enumerate(secrets)]
    calls.append(getattr(Keys(channel, secrets[0]), way)(key_id=mine.key_id))
    await asyncio.gather(*calls, return_exceptions=True)
    conn = await asyncpg.connect(database.admin_url)
    left = await conn.fetchval("SELECT count(*) FROM auth.keys WHERE revoke_time IS NULL AND delete_time IS NULL")
    await conn.close()
    assert left >= 1


async def test_a_change_of_a_key_is_logged_for_a_restored_backup(target, channel, root, capsys):
    created = await root.make()
    await root.RevokeKey(key_id=created.key.key_id)
    printed = capsys.readouterr().out
    assert "key_changed" in printed
    assert created.key.key_id in printed
    assert created.secret not in printed
