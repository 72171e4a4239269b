"""Compares the files with the history: what is to run, or why nothing may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.errors import BadFiles, Problem
from migrator.history import STARTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrator.files import Migration
    from migrator.history import Row


@dataclass(frozen=True, slots=True)
class Plan:
    """What is applied, what is to run in this order, and what the database has that the files have not."""

    applied: tuple[Row, ...]
    pending: tuple[Migration, ...]
    unfinished: tuple[Row, ...]
    future: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def version(self) -> int:
        """The newest applied version; 0 for none."""
        return max((row.version for row in (*self.applied, *self.future)), default=0)


def make_plan(files: Sequence[Migration], history: Sequence[Row]) -> Plan:
    """Returns the plan, or raises BadFiles with everything in which files and history disagree."""
    history = sorted(history, key=lambda row: row.version)
    by_version = {migration.version: migration for migration in files}
    newest_file = max(by_version, default=0)
    future = tuple(row for row in history if row.version > newest_file)
    unfinished = tuple(row for row in history if row.state == STARTED and row.version <= newest_file)
    applied = tuple(row for row in history if row.state != STARTED and row.version <= newest_file)
    done = {row.version for row in applied}
    pending = tuple(migration for migration in files if migration.version not in done)
    problems = [problem for row in applied for problem in _disagreements(row, by_version.get(row.version))]
    problems += [_out_of_order(migration, max(done)) for migration in pending if done and migration.version < max(done)]
    if problems:
        raise BadFiles(problems)
    return Plan(applied, pending, unfinished, future, tuple(_notes(applied, by_version)))


def _disagreements(row: Row, migration: Migration | None) -> list[Problem]:
    if migration is None:
        hint = "an applied file stays for ever: bring it back from version control"
        return [Problem(f"{row.name}.sql", "was applied and is missing now", hint)]
    if migration.checksum == row.checksum:
        return []
    message = (
        f"was edited after it was applied on {row.applied_at:%Y-%m-%d}: {row.checksum} then, {migration.checksum} now"
    )
    return [Problem(migration.file, message, "undo the edit and put the change into a new file")]


def _out_of_order(migration: Migration, newest: int) -> Problem:
    message = f"is older than version {newest}, which is applied"
    hint = (
        "a file merged late takes the next free number; if it was applied and its history row is lost, "
        f"record it with: python -m migrator baseline --to {migration.version}"
    )
    return Problem(migration.file, message, hint)


def _notes(applied: Sequence[Row], by_version: dict[int, Migration]) -> list[str]:
    renamed = ((row, by_version[row.version]) for row in applied)
    return [
        f"{migration.file} was applied as {row.name}.sql: same text, taken as the same"
        for row, migration in renamed
        if migration.name != row.name
    ]
