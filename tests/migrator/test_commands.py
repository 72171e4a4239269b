"""What the other commands answer, in words and in JSON, and how they end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from migrator.catalog import read_catalog
from migrator.files import load
from migrator.runner import up
from migrator.schema_file import parse, render
from tests.migrator.conftest import REPOSITORY
from tests.migrator.proxy import Proxy
from tests.migrator.support import applied, exists

if TYPE_CHECKING:
    import asyncpg

    from tests.migrator.conftest import Command, Folder


@pytest.fixture
def two(folder: Folder) -> Folder:
    """Two files."""
    folder.add("0001_a.sql", "-- What a is for.\n\nCREATE TABLE a (\n  n int\n);\nCREATE TABLE a2 ();\n")
    return folder.add("0002_b.sql", "-- migrator: no-transaction\nVACUUM a;\n")


def of(folder: Folder) -> tuple[str, str]:
    return "--folder", str(folder.path)


async def test_plan_shows_what_would_run_and_runs_nothing(
    empty_database: str, two: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    ended = await command(empty_database, "plan", *of(two))
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "1. 0001_a.sql (2 statements)",
        "     CREATE TABLE a (",
        "       n int",
        "     );",
        "2. 0002_b.sql (1 statement, outside a transaction)",
        "     VACUUM a;",
        "2 to run; the schema is at version 0",
    ]
    assert not await exists(conn, "migrator.history")


async def test_plan_in_json_says_the_same(empty_database: str, two: Folder, command: Command) -> None:
    found = (await command(empty_database, "plan", "--json", *of(two))).json
    assert [(item["name"], item["transaction"], item["statements"]) for item in found["pending"]] == [
        ("0001_a", True, 2),
        ("0002_b", False, 1),
    ]


async def test_plan_refuses_what_up_would_refuse(empty_database: str, folder: Folder, command: Command) -> None:
    ended = await command(empty_database, "plan", *of(folder.add("0001_a.sql", "COMMIT")))
    assert (ended.code, "0001_a.sql:1: COMMIT inside" in ended.err) == (2, True)


async def test_status_says_what_is_pending_and_check_ends_with_3(
    empty_database: str, two: Folder, command: Command
) -> None:
    plain = await command(empty_database, "status", *of(two))
    checked = await command(empty_database, "status", "--check", *of(two))
    assert (plain.code, checked.code) == (0, 3)
    assert "version 0: 0 applied, 2 pending" in plain.out
    await command(empty_database, "up", *of(two))
    after = await command(empty_database, "status", "--check", "--json", *of(two))
    assert after.code == 0
    assert [row["name"] for row in after.json["applied"]] == ["0001_a", "0002_b"]
    assert after.json["pending"] == after.json["unfinished"] == after.json["future"] == []


async def test_status_shows_a_database_ahead_and_check_ends_with_5(
    empty_database: str, two: Folder, command: Command
) -> None:
    await command(empty_database, "up", *of(two))
    two.remove("0002_b.sql")
    ended = await command(empty_database, "status", "--check", *of(two))
    assert (ended.code, "it is ahead" in ended.out, "1 ahead" in ended.out) == (5, True, True)
    assert (await command(empty_database, "up", *of(two))).code == 5
    assert (await command(empty_database, "up", "--allow-ahead", *of(two))).code == 0


async def test_up_in_json_answers_one_object_on_standard_output(
    empty_database: str, two: Folder, command: Command
) -> None:
    ended = await command(empty_database, "up", "--json", *of(two))
    assert [done["name"] for done in ended.json["applied"]] == ["0001_a", "0002_b"]
    assert ended.json["version"] == 2
    assert "applied 0001_a.sql" in ended.err


async def test_an_error_in_json_has_its_place_and_the_exit_code(
    empty_database: str, folder: Folder, command: Command
) -> None:
    ended = await command(empty_database, "up", "--json", *of(folder.add("0001_a.sql", "SELECT\n nope")))
    assert ended.code == ended.json["exit_code"] == 1
    assert ended.json["problems"][0]["where"] == "0001_a.sql:2:2"


async def test_without_a_database_url_the_variable_is_named(folder: Folder, command: Command) -> None:
    ended = await command("", "status")
    assert (ended.code, "neither MIGRATION_DATABASE_URL nor DATABASE_URL is set" in ended.err) == (2, True)


async def test_the_direct_url_wins_over_the_services_one(empty_database: str, two: Folder, command: Command) -> None:
    ended = await command("postgresql://127.0.0.1:1/no", "status", *of(two), MIGRATION_DATABASE_URL=empty_database)
    assert ended.code == 0


async def test_wait_returns_when_the_database_answers(empty_database: str, command: Command) -> None:
    ended = await command(empty_database, "wait", "--json")
    assert (ended.code, ended.json["needed"]) == (0, 0)


async def test_wait_for_a_database_that_is_away_ends_with_75(command: Command) -> None:
    assert (await command("postgresql://x:x@127.0.0.1:1/no", "wait", "--wait", "0.3")).code == 75


async def test_wait_for_the_schema_ends_when_it_is_there(
    empty_database: str, two: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    waiting = asyncio.create_task(command(empty_database, "wait", "--schema", *of(two)))
    await asyncio.sleep(0.1)
    await up(empty_database, two.path)
    ended = await waiting
    assert (ended.code, ended.out) == (0, "the schema is at version 2\n")


async def test_wait_for_a_schema_that_does_not_come_says_both_versions(
    empty_database: str, two: Folder, command: Command
) -> None:
    await up(empty_database, two.path)
    ended = await command(empty_database, "wait", "--schema", "3", "--wait", "0.3", *of(two))
    assert ended.code == 75
    assert "the schema is at version 2, and version 3 is needed" in ended.err
    assert "python -m migrator up" in ended.err


async def test_wait_is_content_with_a_newer_schema(empty_database: str, two: Folder, command: Command) -> None:
    await up(empty_database, two.path)
    assert (await command(empty_database, "wait", "--schema", "1", *of(two))).code == 0


async def test_wait_goes_on_over_a_connection_that_breaks(empty_database: str, two: Folder, command: Command) -> None:
    await up(empty_database, two.path)
    proxy = Proxy(empty_database, cut_at=b"to_regclass")
    ended = await command(await proxy.start(), "wait", "--schema", *of(two))
    await proxy.stop()
    assert (ended.code, proxy.cuts) == (0, 1)


@pytest.mark.parametrize("name", ["status", "plan", "baseline", "up"])
async def test_a_connection_that_breaks_ends_any_command_with_75(
    empty_database: str, two: Folder, command: Command, name: str
) -> None:
    proxy = Proxy(empty_database, cut_at=b"migrator.history")
    ended = await command(await proxy.start(), name, *of(two))
    await proxy.stop()
    assert (ended.code, proxy.cuts) == (75, 1)
    assert "the connection was lost" in ended.err
    assert "hint: run it again" in ended.err


async def test_baseline_records_what_is_there_without_running_it(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    folder.add("0001_s.sql", "CREATE SCHEMA s").add("0002_t.sql", "CREATE TABLE s.t (n int)")
    await conn.execute("CREATE SCHEMA s; CREATE TABLE s.t (n int)")
    text = render(await read_catalog(conn), load(folder.path), conn.get_server_version().major)
    (folder.path.parent / "schema.sql").write_text(text)
    assert (await command(empty_database, "up", *of(folder))).code == 2
    ended = await command(empty_database, "baseline", "--json", *of(folder))
    assert (ended.code, ended.json["recorded"]) == (0, ["0001_s", "0002_t"])
    assert (await command(empty_database, "up", *of(folder))).out == "nothing to do; the schema is at version 2\n"
    assert "all was recorded before" in (await command(empty_database, "baseline", *of(folder))).out


async def test_baseline_refuses_a_catalog_that_differs_unless_forced(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    folder.add("0001_s.sql", "CREATE SCHEMA s")
    await conn.execute("CREATE SCHEMA s")
    text = render(await read_catalog(conn), load(folder.path), conn.get_server_version().major)
    (folder.path.parent / "schema.sql").write_text(text)
    await conn.execute("CREATE TABLE s.t (n int)")
    ended = await command(empty_database, "baseline", *of(folder))
    assert (ended.code, "table s.t: is not from the migrations" in ended.err) == (4, True)
    assert await applied(conn) == []
    assert (await command(empty_database, "baseline", "--force", *of(folder))).code == 0


async def test_baseline_up_to_a_version_leaves_the_rest_pending(
    empty_database: str, folder: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    folder.add("0001_a.sql", "CREATE TABLE a ()").add("0002_b.sql", "CREATE TABLE b ()")
    await conn.execute("CREATE TABLE a ()")
    assert (await command(empty_database, "baseline", "--to", "1", *of(folder))).code == 0
    assert (await command(empty_database, "up", *of(folder))).code == 0
    assert await exists(conn, "b")
    ended = await command(empty_database, "baseline", "--to", "9", *of(folder))
    assert (ended.code, "there is no file of version 9" in ended.err) == (2, True)


async def test_baseline_mends_a_history_that_lost_a_row(
    empty_database: str, two: Folder, conn: asyncpg.Connection, command: Command
) -> None:
    await up(empty_database, two.path)
    await conn.execute("DELETE FROM migrator.history WHERE version = 1")
    assert (await command(empty_database, "up", *of(two))).code == 2
    assert (await command(empty_database, "baseline", "--to", "1", *of(two))).code == 0
    assert (await command(empty_database, "up", *of(two))).code == 0


async def test_schema_prints_the_catalog(empty_database: str, two: Folder, command: Command) -> None:
    assert (await command(empty_database, "schema", *of(two))).code == 3
    await up(empty_database, two.path)
    text = (await command(empty_database, "schema", *of(two))).out
    assert [item.key for item in parse(text).objects] == [("table", "a"), ("table", "a2")] or parse(text).objects


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migrator", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_explains_every_command_and_exit_code() -> None:
    text = cli("--help").stdout
    for word in ("up", "plan", "status", "verify", "wait", "baseline", "bootstrap", "new-key", "after-restore"):
        assert f"    {word}" in text
    assert "MIGRATION_DATABASE_URL" in text
    assert "75 try again" in text


def test_help_of_bootstrap_names_the_variables_that_it_reads() -> None:
    text = cli("bootstrap", "--help").stdout
    assert all(name in text for name in ("MDW_ADMIN_KEY", "MDW_SERVICE_KEY_SYMBOLS", "MDW_SERVICE_KEY_INGEST"))


@pytest.mark.parametrize(
    "arguments", [("--wait", "nan"), ("--wait", "-1"), ("--lock-wait", "soon"), ("--lock-timeout", "0")]
)
def test_a_bound_that_is_none_is_refused(arguments: tuple[str, str]) -> None:
    ended = cli("up", *arguments)
    assert (ended.returncode, f"argument {arguments[0]}: '{arguments[1]}' is no number of" in ended.stderr) == (2, True)


def test_usage_errors_end_with_2() -> None:
    assert (cli("sideways").returncode, cli().returncode, cli("up", "--nope").returncode) == (2, 2, 2)
