"""Files go in in order, each whole or not at all, and the history says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from migrator import connect as connecting
from migrator import lock
from migrator.apply import apply_file
from migrator.errors import Ahead, BadFiles, SqlFailed, TryAgain
from migrator.files import Migration, load
from migrator.options import Options
from migrator.runner import up
from migrator.watch import Watch
from tests.migrator.support import applied, exists, where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.migrator.conftest import Folder

HISTORY = (
    "SELECT version, name, state, applied_by, duration_ms, program_version, checksum FROM migrator.history ORDER BY 1"
)


async def test_all_files_are_applied_in_order_and_recorded(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a (n int)").add("0002_b.sql", "INSERT INTO a VALUES (1); CREATE TABLE b ()")
    outcome = await up(empty_database, folder.path)
    rows = await conn.fetch(HISTORY)
    assert [(row["version"], row["name"], row["state"]) for row in rows] == [
        (1, "0001_a", "APPLIED"),
        (2, "0002_b", "APPLIED"),
    ]
    assert rows[0]["applied_by"] == "mdw_owner"
    assert rows[0]["program_version"]
    assert rows[0]["duration_ms"] >= 0
    assert [row["checksum"] for row in rows] == [migration.checksum for migration in load(folder.path)]
    assert (outcome.version, [done.name for done in outcome.applied]) == (2, ["0001_a", "0002_b"])


async def test_a_second_run_finds_nothing_to_do(empty_database: str, folder: Folder) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()")
    await up(empty_database, folder.path)
    outcome = await up(empty_database, folder.path)
    assert (outcome.version, outcome.applied) == (1, [])


async def test_with_nothing_to_do_no_lock_is_taken(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()")
    await up(empty_database, folder.path)
    await conn.fetchval(lock.TRY, lock.KEY)
    assert (await up(empty_database, folder.path, options=Options(lock_wait=0))).applied == []


async def test_a_bad_statement_undoes_its_file_and_keeps_those_before(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b ()")
    folder.add("0003_c.sql", "CREATE TABLE c ();\nSELECT 1; SELEC 2;\n").add("0004_d.sql", "CREATE TABLE d ()")
    folder.add("0005_e.sql", "CREATE TABLE e ()")
    with pytest.raises(SqlFailed) as caught:
        await up(empty_database, folder.path)
    assert where(caught.value)[0] == "0003_c.sql:2:11"
    assert "SELECT 1; SELEC 2;\n       |           ^" in str(caught.value)
    assert "kept: 0001_a, 0002_b; not run: 0004_d, 0005_e" in str(caught.value)
    assert await applied(conn) == [1, 2]
    assert not await exists(conn, "c")


async def test_a_file_of_pending_ones_that_is_bad_stops_all_of_them(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b (); COMMIT;")
    with pytest.raises(BadFiles):
        await up(empty_database, folder.path)
    assert not await exists(conn, "a")


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        (
            "CREATE TABLE t (n int PRIMARY KEY);\nINSERT INTO t VALUES (1);\n  INSERT INTO t VALUES (1);",
            "0001_a.sql:3:3",
        ),
        ("SELECT 1;\nDO $$ BEGIN RAISE EXCEPTION 'no'; END $$;", "0001_a.sql:2:1"),
        ("SELECT 1;\n\tSELECT nope;", "0001_a.sql:2:9"),
    ],
)
async def test_an_error_is_placed_even_where_the_server_gives_no_position(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, sql: str, place: str
) -> None:
    folder.add("0001_a.sql", sql)
    with pytest.raises(SqlFailed) as caught:
        await up(empty_database, folder.path)
    assert where(caught.value)[0] == place
    assert not await exists(conn, "t")


async def test_a_deferred_constraint_is_judged_while_its_file_is_known(empty_database: str, folder: Folder) -> None:
    sql = "CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1), (1)"
    with pytest.raises(SqlFailed, match=r"0001_a\.sql: duplicate key"):
        await up(empty_database, folder.add("0001_a.sql", sql).path)


async def test_an_edited_file_is_refused(empty_database: str, folder: Folder) -> None:
    await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)
    with pytest.raises(BadFiles, match="was edited after it was applied"):
        await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a (n int)").path)


@pytest.mark.parametrize("variant", [b"\xef\xbb\xbfCREATE TABLE a\n()", b"CREATE TABLE a\r\n()"])
async def test_other_line_ends_and_a_byte_order_mark_are_no_edit_and_run(
    empty_database: str, folder: Folder, variant: bytes
) -> None:
    await up(empty_database, folder.add("0001_a.sql", variant).path)
    folder.add("0001_a.sql", "CREATE TABLE a\n()")
    assert (await up(empty_database, folder.path)).applied == []


async def test_a_missing_file_is_refused(empty_database: str, folder: Folder) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b ()")
    await up(empty_database, folder.path)
    folder.remove("0002_b.sql").add("0002_c.sql", "CREATE TABLE c ()")
    with pytest.raises(BadFiles, match=r"0002_c\.sql: was edited"):
        await up(empty_database, folder.path)


async def test_a_renamed_file_is_accepted_with_a_note(empty_database: str, folder: Folder) -> None:
    await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)
    folder.remove("0001_a.sql").add("0001_z.sql", "CREATE TABLE a ()")
    assert "taken as the same" in (await up(empty_database, folder.path)).notes[0]


async def test_a_history_row_removed_by_hand_is_noticed(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b ()")
    await up(empty_database, folder.path)
    await conn.execute("DELETE FROM migrator.history WHERE version = 1")
    with pytest.raises(BadFiles, match="baseline --to 1"):
        await up(empty_database, folder.path)


async def test_a_database_ahead_of_the_files_is_said_so(empty_database: str, folder: Folder) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b ()")
    await up(empty_database, folder.path)
    folder.remove("0002_b.sql")
    with pytest.raises(Ahead, match="it holds 0002_b"):
        await up(empty_database, folder.path)
    assert (await up(empty_database, folder.path, options=Options(allow_ahead=True))).version == 2


@pytest.mark.parametrize(
    "stranger", ["CREATE TABLE other (n int)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1"]
)
async def test_a_database_in_use_without_history_is_refused(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, stranger: str
) -> None:
    await conn.execute(stranger)
    with pytest.raises(BadFiles, match="is not empty and has no history: public"):
        await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)
    assert not await exists(conn, "a")


async def test_an_extension_makes_a_database_not_used(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    await conn.execute("CREATE EXTENSION btree_gist")
    assert (await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)).version == 1


@pytest.mark.parametrize(
    "body",
    [
        "$a$ BEGIN RETURN ($$ x;y $$); END $a$ LANGUAGE plpgsql",
        "LANGUAGE sql BEGIN ATOMIC SELECT 'a;b'; SELECT CASE WHEN true THEN 'c' END; END",
    ],
)
async def test_functions_with_semicolons_in_them_run(empty_database: str, folder: Folder, body: str) -> None:
    declaration = f"AS {body}" if body.startswith("$") else body
    folder.add("0001_a.sql", f"CREATE FUNCTION f() RETURNS text {declaration};\nCREATE TABLE a ();")
    assert (await up(empty_database, folder.path)).version == 1


async def test_settings_and_roles_of_a_file_end_with_it(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    """A pg_dump header sets search_path to nothing: the history, and the next file, must not get lost by it."""
    folder.add("0001_a.sql", "CREATE SCHEMA s; SET search_path = s; CREATE TABLE t (); SET statement_timeout = 60001;")
    folder.add("0002_b.sql", "SELECT set_config('search_path', '', false); SET ROLE pg_read_all_data;")
    folder.add("0003_c.sql", "CREATE TABLE u AS SELECT current_setting('statement_timeout') AS t;")
    try:
        await up(empty_database, folder.path)
    except SqlFailed as error:
        assert 'permission denied to set role "pg_read_all_data"' in str(error)  # noqa: PT017 - as a plain owner
        folder.add("0002_b.sql", "SELECT set_config('search_path', '', false)")
        await up(empty_database, folder.path)
    assert await applied(conn) == [1, 2, 3]
    assert await conn.fetchval("SELECT t FROM public.u") == "0"


async def test_a_statement_timeout_of_the_file_is_its_own_error_and_not_tried_again(
    empty_database: str, folder: Folder
) -> None:
    said: list[str] = []
    folder.add("0001_a.sql", "SET LOCAL statement_timeout = '50ms';\nSELECT pg_sleep(5);")
    with pytest.raises(SqlFailed, match="57014"):
        await up(empty_database, folder.path, say=said.append)
    assert said == []


async def test_an_enum_value_used_where_it_is_added_gets_the_servers_own_words(
    empty_database: str, folder: Folder
) -> None:
    folder.add("0001_a.sql", "CREATE TYPE mood AS ENUM ('good')")
    folder.add("0002_b.sql", "ALTER TYPE mood ADD VALUE 'bad';\nSELECT 'bad'::mood;")
    with pytest.raises(SqlFailed, match="55P04") as caught:
        await up(empty_database, folder.path)
    assert "hint: New enum values must be committed" in str(caught.value)


@pytest.fixture
async def unchecked(
    empty_database: str, folder: Folder, connect: Callable[..., Awaitable[asyncpg.Connection]]
) -> Callable[[str], Awaitable[int]]:
    """Applies SQL as a file that no check has seen."""
    await up(empty_database, folder.add("0001_a.sql", "CREATE TABLE a ()").path)
    session = await connect(empty_database, server_settings=connecting.SESSION)
    await lock.acquire(session, 1, print)

    async def run(sql: str) -> int:
        return await apply_file(session, Migration(2, "0002_x", sql, "0" * 64), Options(), Watch(empty_database), print)

    return run


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (); COMMIT",
        "CREATE TABLE x (); COMMIT; BEGIN",
        "BEGIN; CREATE TABLE x (); COMMIT",
        "ROLLBACK; CREATE TABLE x ()",
    ],
)
async def test_a_file_that_ends_its_transaction_is_caught_when_it_runs(
    unchecked: Callable[[str], Awaitable[int]], conn: asyncpg.Connection, sql: str
) -> None:
    with pytest.raises(SqlFailed, match="ended its own transaction"):
        await unchecked(sql)
    assert await applied(conn) == [1]


async def test_a_file_that_gives_the_lock_away_is_undone(
    unchecked: Callable[[str], Awaitable[int]], conn: asyncpg.Connection
) -> None:
    with pytest.raises(SqlFailed, match="released the migrator's lock"):
        await unchecked("CREATE TABLE x (); SELECT pg_advisory_unlock_all()")
    assert await applied(conn) == [1]


async def test_a_large_file_goes_in(empty_database: str, folder: Folder) -> None:
    rows = ",\n".join(f"({n}, 'some words that take room')" for n in range(30_000))
    folder.add("0001_a.sql", f"CREATE TABLE a (n int, t text);\nINSERT INTO a VALUES {rows};")
    assert (await up(empty_database, folder.path)).version == 1


async def test_a_file_that_waits_for_what_others_make_is_tried_again_and_then_later(
    empty_database: str, folder: Folder, conn: asyncpg.Connection
) -> None:
    """So a Job that comes before an operator has made the roles ends with 75, and is run again."""
    folder.add(
        "0001_a.sql",
        """DO $$
        BEGIN
          IF to_regnamespace('made_by_others') IS NULL THEN
            RAISE EXCEPTION 'not there yet' USING ERRCODE = 'MDW75';
          END IF;
        END $$""",
    )
    with pytest.raises(TryAgain, match="not there yet, for 0 s; nothing was changed"):
        await up(empty_database, folder.path, options=Options(retry_for=0))

    makers: list[asyncio.Task[str]] = []

    def make_it(words: str) -> None:
        if "trying again" in words and not makers:
            makers.append(asyncio.create_task(conn.execute("CREATE SCHEMA made_by_others")))

    await up(empty_database, folder.path, say=make_it)
    assert await applied(conn) == [1]
    assert len(makers) == 1
