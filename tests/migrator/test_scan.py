"""Statements are found by PostgreSQL's own lexical rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.scan import line_and_column, scan


def texts(sql: str) -> list[str]:
    return [sql[found.start : found.end].strip() for found in scan(sql).statements]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ';' ",
        "SELECT ';'';' ",
        r"SELECT E'\';' ",
        r"SELECT e'\\' || ';' ",
        'SELECT ";" ',
        'SELECT ";"";" ',
        "SELECT 1 -- ;\n",
        "SELECT 1 /* ; /* ; */ ; */ + 1",
        "SELECT $$;$$ ",
        "SELECT $a$ ; $$ ; $$ ; $b$ ; $a$ ",
        "SELECT $1;".removesuffix(";"),
        "SELECT a$b$c ",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); END",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$",
        "DO $body$ BEGIN PERFORM 1; END $body$",
    ],
)
def test_one_statement_stays_one(sql: str) -> None:
    assert texts(sql + "; SELECT 'next'") == [sql.strip(), "SELECT 'next'"]


def test_comments_and_empty_statements_are_none() -> None:
    assert texts("-- nothing\n;; /* here */ ;") == []


def test_a_begin_outside_a_routine_hides_no_semicolon() -> None:
    assert len(texts("BEGIN; SELECT 1; END; SELECT 2")) == 4


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 'a", "never closed"),
        ('SELECT "a', "never closed"),
        ("SELECT $x$ a", "never closed"),
        ("SELECT 1 /* a /* b */", "never closed"),
        ("SELECT 1;\n\\set a 1\n", "psql"),
    ],
)
def test_what_no_file_may_hold_is_found(sql: str, said: str) -> None:
    assert said in scan(sql).flaws[0].message


def test_places_are_lines_and_columns_from_one() -> None:
    sql = "ab\ncde\n"
    assert [line_and_column(sql, at) for at in (0, 1, 3, 5)] == [(1, 1), (1, 2), (2, 1), (2, 3)]


PIECES = ("SELECT 1", "SELECT ';'", "SELECT $q$;$q$", 'SELECT ";"', "/* ; */ SELECT 2", "SELECT (1)", "-- ;\nSELECT 3")


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
def test_any_row_of_statements_is_cut_where_it_was_joined(pieces: list[str]) -> None:
    assert len(texts(";\n".join(pieces))) == len(pieces)
    assert scan(";\n".join(pieces)).flaws == []


@given(st.text(alphabet="aE'\"$;\\/*-()\n bBEGINCASEND1_", max_size=60))
def test_no_text_is_too_strange_to_be_read(sql: str) -> None:
    found = scan(sql)
    assert all(0 <= statement.start < statement.end <= len(sql) for statement in found.statements)
