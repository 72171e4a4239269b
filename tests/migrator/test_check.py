"""What could not run, or could not be undone, is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from migrator.apply import runs_alone
from migrator.check import check
from migrator.errors import BadFiles
from migrator.files import load
from tests.migrator.support import where

if TYPE_CHECKING:
    from tests.migrator.conftest import Folder

ALONE = "-- migrator: no-transaction\n"


def refusal(folder: Folder, sql: str) -> BadFiles:
    with pytest.raises(BadFiles) as caught:
        check(load(folder.add("0001_a.sql", sql).path))
    return caught.value


@pytest.mark.parametrize("sql", ["-- only words\n", "/* only words */", ";;"])
def test_a_file_of_comments_is_refused(folder: Folder, sql: str) -> None:
    assert "comments only" in str(refusal(folder, sql))


@pytest.mark.parametrize("command", [r"\set a 1", r"\echo hi", r"\restrict abc", r"\i other.sql"])
def test_psql_commands_are_refused_with_their_line(folder: Folder, command: str) -> None:
    assert where(refusal(folder, f"SELECT 1;\n\n{command}\nSELECT 2;")) == ["0001_a.sql:3"]


def test_copy_data_is_refused(folder: Folder) -> None:
    assert "COPY FROM STDIN" in str(refusal(folder, "COPY t (a) FROM stdin;\n1\n"))


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "COMMIT; BEGIN",
        "ROLLBACK; SELECT 1",
        "begin; select 1; commit",
        "START TRANSACTION; SELECT 1; END",
        "PREPARE TRANSACTION 'x'",
        "SAVEPOINT a",
        "ABORT",
    ],
)
def test_transaction_control_is_refused(folder: Folder, sql: str) -> None:
    error = refusal(folder, f"CREATE TABLE t (a int);\n{sql};")
    assert where(error)[0] == "0001_a.sql:2"
    assert "inside a migration" in str(error)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)",
        "DROP INDEX CONCURRENTLY i",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX (CONCURRENTLY) INDEX i",
        "REINDEX DATABASE d",
        "VACUUM t",
        "ALTER SYSTEM SET work_mem = '1MB'",
        "CREATE DATABASE d",
        "DROP TABLESPACE s",
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
        "CLUSTER",
    ],
)
def test_what_cannot_run_in_a_transaction_needs_the_marker(folder: Folder, sql: str) -> None:
    assert "no-transaction" in str(refusal(folder, sql))
    check(load(folder.add("0001_a.sql", ALONE + sql).path))
    assert runs_alone(load(folder.path)[0])


@pytest.mark.parametrize("marker", ["", ALONE])
def test_what_would_give_the_lock_away_is_refused(folder: Folder, marker: str) -> None:
    assert "lock away" in str(refusal(folder, marker + "DISCARD ALL"))


def test_a_no_transaction_file_holds_one_statement(folder: Folder) -> None:
    error = refusal(folder, ALONE + "VACUUM a;\nVACUUM b;")
    assert where(error) == ["0001_a.sql:3"]


def test_an_index_built_concurrently_needs_a_name(folder: Folder) -> None:
    assert "without a name" in str(refusal(folder, ALONE + "CREATE INDEX CONCURRENTLY ON t (a)"))


@pytest.mark.parametrize("sql", ["SELECT 'a", "SELECT $$ a", "/* a"])
def test_what_is_never_closed_is_refused(folder: Folder, sql: str) -> None:
    assert "never closed" in str(refusal(folder, f"SELECT 1;\n{sql}"))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
        "INSERT INTO t VALUES ('COMMIT; \\set')",
        "CREATE TABLE t (vacuum int, concurrently_made boolean)",
        "COPY t TO PROGRAM 'cat'",
        "SET LOCAL lock_timeout = '1s'",
    ],
)
def test_what_only_looks_so_is_fine(folder: Folder, sql: str) -> None:
    check(load(folder.add("0001_a.sql", sql).path))


@pytest.mark.parametrize(
    ("sql", "alone"), [("INSERT INTO t VALUES (1)", False), ("CALL p()", True), ("DO $$ $$", True)]
)
def test_the_marker_is_leave_and_not_order(folder: Folder, sql: str, *, alone: bool) -> None:
    """What can run in a transaction does, so that it and its history row commit together."""
    assert runs_alone(load(folder.add("0001_a.sql", ALONE + sql).path)[0]) is alone
