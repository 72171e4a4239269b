"""Says what in a file could not run, or could not be undone, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.errors import BadFiles, Problem
from migrator.scan import Statement, line_and_column, scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from migrator.files import Migration

TRANSACTION_CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "END", "ABORT", "SAVEPOINT", "RELEASE"})
OUTSIDE_ONLY = frozenset(
    {
        ("ALTER", "SYSTEM"),
        ("CREATE", "DATABASE"),
        ("CREATE", "SUBSCRIPTION"),
        ("CREATE", "TABLESPACE"),
        ("DROP", "DATABASE"),
        ("DROP", "SUBSCRIPTION"),
        ("DROP", "TABLESPACE"),
        ("REINDEX", "DATABASE"),
        ("REINDEX", "SCHEMA"),
        ("REINDEX", "SYSTEM"),
    }
)
CONCURRENT = frozenset({("CREATE", "INDEX"), ("CREATE", "UNIQUE"), ("DROP", "INDEX"), ("ALTER", "TABLE")})
NO_TRANSACTION_HINT = "give it a file of its own that begins with: -- migrator: no-transaction"


def check(migrations: Iterable[Migration]) -> None:
    """Raises BadFiles with every problem of every file."""
    problems = [problem for migration in migrations for problem in _problems(migration)]
    if problems:
        raise BadFiles(problems)


def needs_no_transaction(statement: Statement) -> bool:
    """Whether PostgreSQL refuses the statement inside a transaction block."""
    verbs = statement.verbs
    if verbs[0] == "VACUUM" or verbs[:2] in OUTSIDE_ONLY or verbs == ("CLUSTER",):
        return True
    return is_concurrent(statement)


def is_concurrent(statement: Statement) -> bool:
    """Whether the statement gives way to readers and writers by itself."""
    verbs = statement.verbs
    return "CONCURRENTLY" in statement.words and (verbs[0] == "REINDEX" or verbs[:2] in CONCURRENT)


def _problems(migration: Migration) -> list[Problem]:
    found = scan(migration.sql)
    problems = [_problem(migration, flaw.offset, flaw.message, flaw.hint) for flaw in found.flaws]
    for statement in found.statements:
        problems += [_problem(migration, statement.start, *wrong) for wrong in _wrong(migration, statement)]
    if not found.statements and not found.flaws:
        problems.append(_problem(migration, 0, "holds comments only", "remove it, or say what it does in SQL"))
    if migration.no_transaction and len(found.statements) > 1:
        second = found.statements[1].start
        message = "a no-transaction file holds one statement, since it could not be undone between two"
        problems.append(_problem(migration, second, message, "split it into one file a statement"))
    return problems


def _wrong(migration: Migration, statement: Statement) -> list[tuple[str, str]]:
    verbs = statement.verbs
    if verbs[0] in TRANSACTION_CONTROL or verbs[:2] in {("START", "TRANSACTION"), ("PREPARE", "TRANSACTION")}:
        return [(f"{verbs[0]} inside a migration", "each file is one transaction already: remove it")]
    if verbs[0] == "COPY" and "STDIN" in statement.words:
        return [("COPY FROM STDIN, whose data only psql can send", "write INSERT .. VALUES")]
    if verbs[:2] == ("DISCARD", "ALL"):
        return [("DISCARD ALL would give the migrator's lock away", "each file begins in a fresh session's settings")]
    if not migration.no_transaction and needs_no_transaction(statement):
        return [(f"{' '.join(verbs[:2])} cannot run inside a transaction", NO_TRANSACTION_HINT)]
    if migration.no_transaction and "INDEX" in verbs[1:3] and verbs[0] == "CREATE" and _nameless(statement):
        return [("an index without a name", "name it, so that a retry finds what a killed run left")]
    return []


def _nameless(statement: Statement) -> bool:
    verbs = statement.verbs
    return "CONCURRENTLY" in verbs and verbs[verbs.index("CONCURRENTLY") + 1 :][:1] == ("ON",)


def _problem(migration: Migration, offset: int, message: str, hint: str) -> Problem:
    line, _ = line_and_column(migration.sql, offset)
    return Problem(f"{migration.file}:{line}", message, hint)
