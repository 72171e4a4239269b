"""After a restore, keys are what the logs say they had become, and what the audit lost is said."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from migrator.changes import Changes
from migrator.errors import BadFiles
from migrator.repairs import StoredKey, decide
from migrator.restore_log import HeadLine, KeyLine, Log, read_log
from services.kit import keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.migrator.conftest import Command, Ended

INSERT = """
INSERT INTO auth.keys (key_id, display_name, preview, digest, scopes, version, revoke_time, expire_time)
VALUES ($1, $2, 'mdw_00000000', $3, $4, $5, CASE WHEN $6 THEN now() END, $7::timestamptz)
"""
STATE = """
SELECT version, revoke_time IS NOT NULL AS revoked, delete_time IS NOT NULL AS deleted, digest IS NULL AS forgotten,
       coalesce(expire_time <= clock_timestamp(), false) AS expired
FROM auth.keys WHERE key_id = $1
"""


@pytest.fixture
async def conn(url: str, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    """A connection to it."""
    return await connect(url)


@pytest.fixture
async def admin(conn: asyncpg.Connection) -> UUID:
    """An admin key, as the backup has it."""
    return await stored(conn, "admin", scopes=("admin",))


async def stored(
    conn: asyncpg.Connection,
    name: str,
    *,
    scopes: tuple[str, ...] = ("bars.read",),
    version: int = 1,
    revoked: bool = False,
) -> UUID:
    """Puts a key into the database as a restored backup would have it."""
    key_id = uuid4()
    await conn.execute(INSERT, key_id, name, keys.digest(str(key_id)), list(scopes), version, revoked, None)
    return key_id


async def state_of(conn: asyncpg.Connection, key_id: UUID) -> dict[str, Any]:
    """Returns what is stored of a key's life."""
    row = await conn.fetchrow(STATE, key_id)
    assert row is not None
    return dict(row)


def changed(key_id: UUID, version: int, state: str) -> str:
    return json.dumps({"event": "key_changed", "key_id": str(key_id), "version": version, "state": state})


@pytest.fixture
def restore(url: str, command: Command, tmp_path: Path) -> Callable[..., Awaitable[Ended]]:
    """Runs the command over log lines."""

    async def run(*lines: str, arguments: tuple[str, ...] = ()) -> Ended:
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        return await command(url, "after-restore", "--log", str(tmp_path / "log"), *arguments)

    return run


@pytest.mark.parametrize(
    ("revoked", "state", "expected"),
    [
        (False, "REVOKED", {"revoked": True}),
        (False, "DELETED", {"deleted": True, "forgotten": True}),
        (False, "EXPIRED", {"expired": True}),
        (False, "ACTIVE", {}),
        (True, "ACTIVE", {}),
        (True, "REVOKED", {"revoked": True}),
    ],
)
async def test_an_older_key_gets_the_logged_state_and_a_newer_version(
    conn: asyncpg.Connection,
    admin: UUID,
    restore: Callable[..., Awaitable[Ended]],
    expected: dict[str, bool],
    state: str,
    *,
    revoked: bool,
) -> None:
    key_id = await stored(conn, "team", version=2, revoked=revoked)
    ended = await restore(changed(admin, 1, "ACTIVE"), changed(key_id, 5, state))
    found = await state_of(conn, key_id)
    nothing = {"revoked": False, "deleted": False, "forgotten": False, "expired": False}
    assert ended.code == 0
    assert found == nothing | expected | {"version": 6}
    assert f"the log has version 5, {state}; the database has version 2" in ended.out


async def test_it_tells_to_look_at_scopes_that_may_be_older(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    key_id = await stored(conn, "team")
    ended = await restore(changed(admin, 1, "ACTIVE"), changed(key_id, 2, "ACTIVE"))
    assert "its scopes, peers and limits may be those of the older version" in ended.out


async def test_changes_are_audited_logged_and_not_repeated(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    key_id = await stored(conn, "team")
    lines = (changed(admin, 1, "ACTIVE"), changed(key_id, 3, "REVOKED"))
    first = await restore(*lines)
    again = await restore(*lines)
    assert [json.loads(line) for line in first.err.splitlines()] == [
        {"event": "key_changed", "key_id": str(key_id), "version": 4, "state": "REVOKED"}
    ]
    assert again.err == ""
    rows = await conn.fetch("SELECT service, method, request_id FROM auth.audit_entries")
    assert [tuple(row) for row in rows] == [("migrator", "RevokeKey", str(key_id))]


async def test_a_key_the_log_knows_nothing_of_is_revoked_unless_it_is_to_be_kept(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    kept, other = await stored(conn, "kept"), await stored(conn, "other")
    ended = await restore(changed(admin, 1, "ACTIVE"), arguments=("--keep", str(kept), "--json"))
    actions = {item["key_id"]: item["action"] for item in ended.json["keys"]}
    assert actions == {str(admin): "nothing", str(kept): "keep", str(other): "revoke"}
    assert (await state_of(conn, kept))["revoked"] is False
    assert (await state_of(conn, other))["revoked"] is True


async def test_a_dry_run_changes_nothing(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    key_id = await stored(conn, "team")
    lines = (changed(admin, 1, "ACTIVE"), changed(key_id, 3, "REVOKED"))
    ended = await restore(*lines, arguments=("--dry-run",))
    assert "nothing was changed (--dry-run)" in ended.out
    assert (await state_of(conn, key_id))["version"] == 1


async def test_it_never_locks_everybody_out(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    key_id = await stored(conn, "team")
    ended = await restore(changed(key_id, 3, "REVOKED"))
    assert ended.code == 2
    assert "no active admin key without expiry would be left; nothing was changed" in ended.err
    assert f"--keep: {admin} (admin, mdw_00000000..)" in ended.err
    assert (await state_of(conn, key_id))["revoked"] is False
    assert (await restore(changed(key_id, 3, "REVOKED"), arguments=("--keep", str(admin)))).code == 0


async def test_keys_made_after_the_backup_are_listed_as_gone(
    admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    lost, deleted = uuid4(), uuid4()
    lines = (changed(admin, 1, "ACTIVE"), changed(lost, 1, "ACTIVE"), changed(deleted, 2, "DELETED"))
    ended = await restore(*lines)
    assert f"{lost}  made after the backup: it is gone, make another" in ended.out
    assert str(deleted) not in ended.out


@pytest.mark.parametrize(
    ("keep", "said"), [("nonsense", "is not a key id"), (str(UUID(int=7)), "no such key in the database")]
)
async def test_a_key_to_keep_must_exist(
    admin: UUID, restore: Callable[..., Awaitable[Ended]], keep: str, said: str
) -> None:
    ended = await restore(changed(admin, 1, "ACTIVE"), arguments=("--keep", keep))
    assert (ended.code, said in ended.err) == (2, True)


async def test_a_log_without_a_word_of_keys_is_refused(restore: Callable[..., Awaitable[Ended]], admin: UUID) -> None:
    ended = await restore('{"event": "call"}', "words")
    assert (ended.code, "none is a key_changed or audit_head event" in ended.err) == (2, True)


async def test_a_log_that_cannot_be_read_is_refused(url: str, command: Command, tmp_path: Path) -> None:
    ended = await command(url, "after-restore", "--log", str(tmp_path / "none"))
    assert (ended.code, "--log: cannot be read" in ended.err) == (2, True)


async def test_lines_may_come_from_standard_input(
    url: str, command: Command, admin: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(changed(admin, 1, "ACTIVE") + "\n"))
    assert (await command(url, "after-restore", "--log", "-")).code == 0


async def recorded(conn: asyncpg.Connection, batches: int) -> tuple[UUID, list[bytes]]:
    """Records some changes; returns the recorder and its heads."""
    changes, heads = Changes(conn), []
    for number in range(batches):
        async with changes.transaction() as started:
            await changes.record("Test", str(number), started)
        heads.append(await conn.fetchval("SELECT head_hash FROM auth.audit_writers WHERE writer = $1", changes.writer))
    return changes.writer, heads


def head(writer: UUID, seq: int, head_hash: bytes) -> str:
    fields: dict[str, Any] = {"event": "audit_head", "writer": str(writer), "kind": "changes", "seq": seq}
    return json.dumps(fields | {"head_hash": head_hash.hex()})


@pytest.mark.parametrize(
    ("seq", "use", "verdict", "code"),
    [(3, 2, "same", 0), (2, 1, "same", 0), (9, 2, "lost", 0), (3, 0, "differs", 4), (2, 0, "differs", 4)],
)
async def test_a_chain_is_compared_with_its_last_logged_head(
    conn: asyncpg.Connection,
    admin: UUID,
    restore: Callable[..., Awaitable[Ended]],
    *,
    seq: int,
    use: int,
    verdict: str,
    code: int,
) -> None:
    writer, heads = await recorded(conn, 3)
    lines = (changed(admin, 1, "ACTIVE"), head(writer, 1, b"\0" * 32), head(writer, seq, heads[use]))
    ended = await restore(*lines, arguments=("--json",))
    assert ended.code == code
    assert ended.json["heads"] == [
        {"writer": str(writer), "kind": "changes", "seq": seq, "found_seq": 3, "verdict": verdict}
    ]


async def test_a_recorder_that_is_gone_is_named(admin: UUID, restore: Callable[..., Awaitable[Ended]]) -> None:
    writer = uuid4()
    ended = await restore(changed(admin, 1, "ACTIVE"), head(writer, 4, b"\1" * 32))
    assert f"audit of {writer} (changes): logged up to 4, found up to 0: lost" in ended.out


async def test_what_retention_dropped_is_no_loss(
    conn: asyncpg.Connection, admin: UUID, restore: Callable[..., Awaitable[Ended]]
) -> None:
    writer, heads = await recorded(conn, 2)
    await conn.execute("UPDATE auth.audit_writers SET base_seq = 1 WHERE writer = $1", writer)
    ended = await restore(changed(admin, 1, "ACTIVE"), head(writer, 1, heads[0]), arguments=("--json",))
    assert ended.json["heads"][0]["verdict"] == "dropped by retention"


async def test_the_whole_way_a_backup_is_restored_and_a_revocation_survives(
    url: str, conn: asyncpg.Connection, command: Command, tmp_path: Path
) -> None:
    secret = keys.new_secret()
    made = await command(url, "bootstrap", MDW_ADMIN_KEY=secret, MDW_SERVICE_KEY_INGEST=keys.new_secret())
    service = await conn.fetchval("SELECT key_id FROM auth.keys WHERE display_name = 'service ingest'")
    (tmp_path / "log").write_text(made.err + changed(service, 2, "REVOKED") + "\n")
    ended = await command(url, "after-restore", "--log", str(tmp_path / "log"), "--json")
    assert {item["display_name"]: item["action"] for item in ended.json["keys"]} == {
        "admin": "nothing",
        "service ingest": "revoke",
    }


def test_lines_may_come_in_any_order_and_with_anything_before_them() -> None:
    key, writer = uuid4(), uuid4()
    lines = [
        f"pod/auth-1 2026-01-01T00:00:00Z {changed(key, 3, 'REVOKED')}",
        changed(key, 4, "ACTIVE"),
        changed(key, 2, "DELETED"),
        head(writer, 8, b"b"),
        head(writer, 7, b"a"),
        "{broken",
        "[1]",
        '{"event": "key_changed"}',
        '{"event": "key_changed", "key_id": "x", "version": 1, "state": "ACTIVE"}',
        '{"event": "audit_head", "writer": 1, "kind": "reads", "seq": 1, "head_hash": "zz"}',
        changed(key, 9, "SOMETHING"),
    ]
    log = read_log(lines)
    assert log.keys == {key: KeyLine(4, "ACTIVE")}
    assert log.heads == {(writer, "changes"): HeadLine(8, b"b")}
    assert log.others == 6


def test_of_two_lines_of_one_version_the_stricter_counts() -> None:
    key = uuid4()
    for lines in ([changed(key, 2, "ACTIVE"), changed(key, 2, "EXPIRED")], [changed(key, 2, "EXPIRED")] * 2):
        assert read_log(lines).keys == {key: KeyLine(2, "EXPIRED")}


def key(number: int, state: str = "ACTIVE", *, version: int = 2, admin: bool = False) -> StoredKey:
    return StoredKey(UUID(int=number), "k", "mdw_0", version, state, admin)


@pytest.mark.parametrize(
    ("stored_key", "line", "action"),
    [
        (key(1, version=5), KeyLine(4, "REVOKED"), "nothing"),
        (key(1), KeyLine(2, "EXPIRED"), "expire"),
        (key(1, "REVOKED"), KeyLine(2, "ACTIVE"), "nothing"),
        (key(1, "DELETED"), KeyLine(9, "ACTIVE"), "nothing"),
        (key(1, "EXPIRED"), KeyLine(3, "EXPIRED"), "note"),
        (key(1, "EXPIRED"), KeyLine(3, "ACTIVE"), "note"),
        (key(1, "REVOKED"), None, "nothing"),
        (key(1, "DELETED"), None, "nothing"),
        (key(1, "EXPIRED"), None, "revoke"),
    ],
)
def test_each_pair_of_states_has_its_answer(stored_key: StoredKey, line: KeyLine | None, action: str) -> None:
    admin = key(99, admin=True)
    log = Log({admin.key_id: KeyLine(2, "ACTIVE")} | ({stored_key.key_id: line} if line else {}))
    assert decide([admin, stored_key], log, [])[1].action == action


def test_a_revoked_admin_key_that_the_log_restores_is_admin_enough() -> None:
    admin = key(1, "REVOKED", admin=True)
    assert decide([admin], Log({admin.key_id: KeyLine(3, "ACTIVE")}), [])[0].action == "restore"
    with pytest.raises(BadFiles):
        decide([admin], Log({admin.key_id: KeyLine(3, "REVOKED")}), [])
