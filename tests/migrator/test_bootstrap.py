"""Five steps from an empty database to one that services start on; repeated, they change nothing."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import TYPE_CHECKING

import pytest

from migrator import changes
from migrator.key_file import write_new
from services.kit import keys
from tests.migrator.conftest import secret_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.conftest import MigratedDatabase
    from tests.migrator.conftest import Command

STOCKS = {"AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "META", "FB", "NVDA", "AMD", "INTC", "QCOM"}
KEYS = "SELECT display_name, scopes, preview, digest, version FROM auth.keys ORDER BY create_time, display_name"
AUDIT = "SELECT service, method, code, key_id FROM auth.audit_entries ORDER BY time, id"
TICKERS = "SELECT asset_class, ticker, provider_ticker, from_date::text, to_date::text FROM symbols.tickers"


@pytest.fixture
async def conn(url: str, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    """A connection to it."""
    return await connect(url)


@pytest.fixture
def service_keys() -> dict[str, str]:
    """Keys for the two services."""
    return {name: keys.new_secret() for name in ("MDW_SERVICE_KEY_SYMBOLS", "MDW_SERVICE_KEY_INGEST")}


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def exists(path: Path) -> bool:
    return path.exists()


def remove(path: Path) -> None:
    path.unlink()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


async def test_an_empty_database_is_ready_after_five_steps(
    empty_database: str,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
    command: Command,
    key_file: Path,
    service_keys: dict[str, str],
) -> None:
    ended = await command(empty_database, "bootstrap", "--key-file", str(key_file), **service_keys)
    secret = secret_in(key_file)
    assert ended.code == 0
    for number, step in enumerate(("migrate", "verify", "keys", "symbols", "summary"), 1):
        assert f"[{number}/5] {step}" in ended.out
    assert mode_of(key_file) == 0o600
    assert keys.is_well_formed(secret)
    assert not any(hidden in ended.out + ended.err for hidden in (secret, *service_keys.values()))
    assert f"admin key {keys.preview(secret)}..: the secret is in {key_file} (mode 0600)" in ended.out
    conn = await connect(empty_database)
    rows = {row["display_name"]: row for row in await conn.fetch(KEYS)}
    assert {name: row["scopes"] for name, row in rows.items()} == {
        "admin": ["admin"],
        "service symbols": ["service"],
        "service ingest": ["service", "symbols.read", "symbols.write"],
    }
    assert rows["admin"]["digest"] == keys.digest(secret)
    assert rows["service ingest"]["digest"] == keys.digest(service_keys["MDW_SERVICE_KEY_INGEST"])


async def test_each_change_has_its_audit_row_and_each_key_its_log_line(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path, service_keys: dict[str, str]
) -> None:
    ended = await command(url, "bootstrap", "--key-file", str(key_file), **service_keys)
    rows = [tuple(row) for row in await conn.fetch(AUDIT)]
    assert rows == [("migrator", "CreateKey", 0, None)] * 3 + [("migrator", "ImportSymbols", 0, None)]
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert {line["key_id"] for line in lines} == {
        str(row[0]) for row in await conn.fetch("SELECT key_id FROM auth.keys")
    }
    assert all((line["event"], line["version"], line["state"]) == ("key_changed", 1, "ACTIVE") for line in lines)


async def test_the_seeds_are_fifteen_symbols_and_meta_has_two_tickers(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file))
    rows = [tuple(row) for row in await conn.fetch(TICKERS)]
    assert await conn.fetchval("SELECT count(*) FROM symbols.symbols WHERE active") == 15
    assert {row[1] for row in rows if row[0] == 1} == STOCKS
    assert {row[1] for row in rows if row[0] == 2} == {"SPY", "QQQ", "IWM"}
    assert {row[1:3] for row in rows if row[0] == 3} == {("BTC-USD", "X:BTCUSD"), ("ETH-USD", "X:ETHUSD")}
    assert {row for row in rows if row[1] in {"FB", "META"}} == {
        (1, "FB", "FB", "2012-05-18", "2022-06-08"),
        (1, "META", "META", "2022-06-09", None),
    }


async def everything(conn: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Returns all rows that a bootstrap can write."""
    found: list[tuple[object, ...]] = []
    for query in (KEYS, AUDIT, TICKERS, "SELECT * FROM symbols.symbols", "SELECT * FROM migrator.history"):
        found += [tuple(row) for row in await conn.fetch(query)]
    return found


async def test_repeated_it_changes_nothing(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path, service_keys: dict[str, str]
) -> None:
    arguments = ("bootstrap", "--key-file", str(key_file))
    await command(url, *arguments, **service_keys)
    before = await everything(conn)
    again = await command(url, *arguments, "--json", **service_keys)
    assert await everything(conn) == before
    assert again.code == 0
    assert again.json["admin_key"]["made"] is False
    assert again.json["admin_key"]["secret_in"] == f"the secret is in {key_file}"


async def test_a_seed_that_was_deleted_stays_deleted(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file))
    await conn.execute("DELETE FROM symbols.symbols WHERE symbol_id = (SELECT min(symbol_id) FROM symbols.symbols)")
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert "14 symbols held already, none added" in ended.out


async def test_a_secret_without_a_place_to_go_is_not_made(url: str, conn: asyncpg.Connection, command: Command) -> None:
    ended = await command(url, "bootstrap")
    assert ended.code == 2
    assert "has no place to go" in ended.err
    assert "bootstrap stopped at step 3 of 5 (keys); done and kept: migrate, verify" in ended.err
    assert "run the same command again" in ended.err
    assert await conn.fetch(KEYS) == []


async def test_the_admin_key_may_come_from_the_environment(
    url: str, conn: asyncpg.Connection, command: Command
) -> None:
    secret = keys.new_secret()
    first = await command(url, "bootstrap", MDW_ADMIN_KEY=secret + "\n")
    again = await command(url, "bootstrap", MDW_ADMIN_KEY=secret)
    assert (first.code, again.code) == (0, 0)
    assert secret not in first.out + first.err + again.out + again.err
    assert "registered from MDW_ADMIN_KEY" in first.out
    assert [row["digest"] for row in await conn.fetch(KEYS)] == [keys.digest(secret)]


@pytest.mark.parametrize("name", ["MDW_ADMIN_KEY", "MDW_SERVICE_KEY_SYMBOLS", "MDW_SERVICE_KEY_INGEST"])
async def test_what_is_no_key_is_refused_by_the_name_of_its_variable(
    url: str, command: Command, key_file: Path, name: str
) -> None:
    bad = keys.new_secret()[:-1] + "x"
    ended = await command(url, "bootstrap", "--key-file", str(key_file), **{name: bad})
    assert (ended.code, bad in ended.err) == (2, False)
    assert f"{name}: does not hold a key" in ended.err


async def test_one_key_for_two_purposes_is_refused(url: str, conn: asyncpg.Connection, command: Command) -> None:
    secret = keys.new_secret()
    ended = await command(url, "bootstrap", MDW_ADMIN_KEY=secret, MDW_SERVICE_KEY_INGEST=secret)
    assert (ended.code, await conn.fetch(KEYS)) == (2, [])
    assert "MDW_SERVICE_KEY_INGEST: holds the same key as MDW_ADMIN_KEY" in ended.err


@pytest.mark.parametrize(
    ("change", "said"), [("revoke_time = now()", "is revoked"), ("expire_time = now() - interval '1 s'", "is expired")]
)
async def test_a_key_that_is_dead_is_said_so(
    url: str, conn: asyncpg.Connection, command: Command, change: str, said: str
) -> None:
    secret = keys.new_secret()
    await command(url, "bootstrap", MDW_ADMIN_KEY=secret)
    await conn.execute(f"UPDATE auth.keys SET {change}")
    ended = await command(url, "bootstrap", MDW_ADMIN_KEY=secret)
    assert (ended.code, said in ended.err) == (2, True)


async def test_a_service_key_that_lacks_a_scope_is_told_and_left(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path, service_keys: dict[str, str]
) -> None:
    arguments = ("bootstrap", "--key-file", str(key_file))
    await command(url, *arguments, **service_keys)
    await conn.execute("UPDATE auth.keys SET scopes = '{service}' WHERE display_name = 'service ingest'")
    ended = await command(url, *arguments, **service_keys)
    assert "lacks symbols.read, symbols.write" in ended.out
    admin = await conn.fetchval("SELECT digest FROM auth.keys WHERE display_name = 'admin'")
    assert keys.digest(secret_in(key_file)) == admin


async def test_a_service_key_given_as_admin_key_is_refused(
    url: str, command: Command, key_file: Path, service_keys: dict[str, str]
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file), **service_keys)
    ended = await command(url, "bootstrap", MDW_ADMIN_KEY=service_keys["MDW_SERVICE_KEY_INGEST"])
    assert (ended.code, "without the scope admin" in ended.err) == (2, True)


async def test_a_missing_service_key_is_said(url: str, command: Command, key_file: Path) -> None:
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert "MDW_SERVICE_KEY_SYMBOLS is not set, so this service has no key yet" in ended.out


async def test_a_service_key_that_is_there_is_said_when_its_variable_is_not_set(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path, service_keys: dict[str, str]
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file), **service_keys)
    await conn.execute("UPDATE auth.keys SET revoke_time = now() WHERE display_name = 'service ingest'")
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    there = keys.preview(service_keys["MDW_SERVICE_KEY_SYMBOLS"])
    assert f"service symbols: MDW_SERVICE_KEY_SYMBOLS is not set; {there}.. is there" in ended.out
    assert "MDW_SERVICE_KEY_INGEST is not set, so this service has no key yet" in ended.out


async def test_a_lost_admin_key_is_replaced_by_another(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file))
    same = await command(url, "bootstrap", "--key-file", str(key_file), "--new-admin-key")
    assert (same.code, "name another file" in same.err) == (2, True)
    other = key_file.with_name("other.key")
    ended = await command(url, "bootstrap", "--key-file", str(other), "--new-admin-key")
    digests = {row["digest"] for row in await conn.fetch(KEYS)}
    assert ended.code == 0
    assert digests == {keys.digest(secret_in(path)) for path in (key_file, other)}


async def test_without_its_file_a_present_admin_key_is_pointed_to_and_kept(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    await command(url, "bootstrap", "--key-file", str(key_file))
    remove(key_file)
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert "if it is lost, run bootstrap --new-admin-key" in ended.out
    assert (len(await conn.fetch(KEYS)), exists(key_file)) == (1, False)


async def test_a_file_that_a_killed_run_left_is_taken_up(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    """The file is written before the key commits: the other way round, a key would be there that nobody knows."""
    secret = keys.new_secret()
    write_new(key_file, secret)
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert "registered from the file" in ended.out
    assert [row["digest"] for row in await conn.fetch(KEYS)] == [keys.digest(secret)]


@pytest.mark.parametrize(("content", "said"), [("words\n", "does not hold a key"), (b"\xff\xfe", "cannot be read")])
async def test_a_file_with_something_else_is_not_touched(
    url: str, command: Command, key_file: Path, content: str | bytes, said: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    put(key_file, data)
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert (ended.code, said in ended.err, content_of(key_file)) == (2, True, data)


async def test_a_file_that_cannot_be_written_leaves_no_key(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    put(key_file.parent, b"no folder")
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert (ended.code, "cannot be written" in ended.err, await conn.fetch(KEYS)) == (2, True, [])


async def test_two_at_once_make_one_admin_key_and_fifteen_symbols(
    empty_database: str,
    connect: Callable[..., Awaitable[asyncpg.Connection]],
    start: Callable[..., Awaitable[asyncio.subprocess.Process]],
    tmp_path: Path,
    service_keys: dict[str, str],
) -> None:
    files = [tmp_path / "a.key", tmp_path / "b.key"]
    both = [await start(empty_database, "bootstrap", "--key-file", str(file), **service_keys) for file in files]
    ended = await asyncio.gather(*(process.communicate() for process in both))
    assert [process.returncode for process in both] == [0, 0], ended
    conn = await connect(empty_database)
    assert len(await conn.fetch(KEYS)) == 3
    assert await conn.fetchval("SELECT count(*) FROM symbols.symbols") == 15
    assert sum(exists(file) for file in files) == 1


async def test_a_busy_audit_lock_is_waited_for_and_then_given_up(
    url: str,
    conn: asyncpg.Connection,
    command: Command,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "RETRY_FOR", 0.3)
    await conn.execute("BEGIN; SELECT pg_advisory_xact_lock_shared(1833042)")
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    assert (ended.code, "nothing was changed" in ended.err) == (75, True)
    await conn.execute("COMMIT")
    assert (await command(url, "bootstrap", "--key-file", str(key_file))).code == 0


async def test_drift_stops_it_before_any_key(
    url: str, conn: asyncpg.Connection, command: Command, key_file: Path
) -> None:
    await conn.execute("CREATE TABLE ingest.stranger (n int)")
    try:
        ended = await command(url, "bootstrap", "--key-file", str(key_file), "--json")
    finally:
        await conn.execute("DROP TABLE ingest.stranger")
    assert ended.code == 4
    assert [problem["where"] for problem in ended.json["problems"]] == ["table ingest.stranger", ""]
    assert "step 2 of 5 (verify); done and kept: migrate" in ended.json["problems"][1]["message"]
    assert not exists(key_file)


async def test_a_role_without_the_privileges_is_told_and_what_was_done(
    database: MigratedDatabase, command: Command, key_file: Path
) -> None:
    ended = await command(database.symbols_url, "bootstrap", "--key-file", str(key_file))
    assert ended.code == 1
    assert "permission denied" in ended.err
    assert "run it as the role that owns the schema" in ended.err
    assert "bootstrap stopped at step 3 of 5 (keys); done and kept: migrate, verify" in ended.err


async def test_new_key_makes_a_key_and_needs_no_database(command: Command, tmp_path: Path) -> None:
    printed = await command("", "new-key")
    assert keys.is_well_formed(printed.out.strip())
    path = tmp_path / "new.key"
    written = await command("", "new-key", "--key-file", str(path))
    assert keys.is_well_formed(secret_in(path))
    assert secret_in(path) not in written.out
    assert (await command("", "new-key", "--key-file", str(path))).code == 2
    assert keys.is_well_formed((await command("", "new-key", "--json")).json["secret"])
