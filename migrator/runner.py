"""Brings a database up to the files: plan, lock, plan again, apply, each file whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from migrator import connect, history, lock
from migrator.alone import Repeat, apply_alone
from migrator.apply import CommitUnknown, Patience, apply_file, runs_alone
from migrator.check import check
from migrator.errors import Ahead, BadFiles, MigratorError, Problem
from migrator.files import SQL_FOLDER, load
from migrator.plan import Plan, make_plan
from migrator.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import asyncpg

    from migrator.files import Migration

# What is in the database though no migration put it there; extensions' own objects do not count.
STRANGERS = """
WITH found AS (
  SELECT n.nspname, c.relname AS name, c.oid, 'pg_class'::regclass AS class
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL
  SELECT n.nspname, p.proname || '()', p.oid, 'pg_proc'::regclass
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
)
SELECT quote_ident(nspname) || '.' || name
FROM found f
WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'migrator')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = f.class AND d.objid = f.oid AND d.deptype = 'e')
ORDER BY 1
LIMIT 6
"""


def silent(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times in seconds, except where the name says otherwise."""

    wait: float = 60.0
    lock_wait: float = 300.0
    patience: Patience = field(default_factory=Patience)
    allow_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """A file that this run applied."""

    version: int
    name: str
    duration_ms: int


@dataclass(slots=True)
class Outcome:
    """What a run did."""

    version: int = 0
    applied: list[Applied] = field(default_factory=list)
    notes: tuple[str, ...] = ()


async def up(
    dsn: str, folder: Path = SQL_FOLDER, *, options: Options | None = None, say: Callable[[str], None] = silent
) -> Outcome:
    """Applies every pending file in order; raises a MigratorError, with what was kept, when one does not go in."""
    options = options or Options()
    files = load(folder)
    run = Run(dsn, files, options, say)
    try:
        return await run.up()
    finally:
        await run.close()


@dataclass(slots=True)
class Run:
    """One run of `up`: its connection, and what it has applied so far."""

    dsn: str
    files: Sequence[Migration]
    options: Options
    say: Callable[[str], None]
    outcome: Outcome = field(default_factory=Outcome)
    conn: asyncpg.Connection | None = None
    watch: Watch | None = None
    unsure: int = 0

    async def up(self) -> Outcome:
        """Runs to the end, also over a connection that broke in COMMIT: then the history says what happened."""
        while True:
            try:
                return await self._pass()
            except CommitUnknown:
                self.say("the connection broke in COMMIT: asking the history whether it happened")
                await self.close()

    async def close(self) -> None:
        """Ends the connections."""
        if self.watch is not None:
            await self.watch.close()
        if self.conn is not None:
            await connect.close(self.conn)
            self.conn = None

    async def _pass(self) -> Outcome:
        conn = self.conn = await connect.connect(self.dsn, self.options.wait, self.say, before_waiting=self._check_all)
        server = await connect.look(conn)
        plan = await self._plan(conn)
        self._settle(plan)
        if plan.pending:
            # Most runs find nothing to do, and take no lock for it.
            check(plan.pending)
            connect.require_writable(server, first_run=not plan.applied)
            await lock.acquire(conn, self.options.lock_wait, self.say)
            plan = await self._prepare(conn)
            await self._apply(conn, plan)
        self.outcome.version = max([plan.version, *(migration.version for migration in plan.pending)])
        self.outcome.notes = plan.notes
        return self.outcome

    def _settle(self, plan: Plan) -> None:
        """Counts a file as applied by this run if its COMMIT went through though no answer came."""
        for row in plan.applied:
            if row.version == self.unsure:
                self.outcome.applied.append(Applied(row.version, row.name, row.duration_ms))

    def _check_all(self) -> None:
        check(self.files)

    async def _plan(self, conn: asyncpg.Connection) -> Plan:
        plan = make_plan(self.files, await history.read(conn))
        if plan.future and not self.options.allow_ahead:
            raise ahead(plan)
        return plan

    async def _prepare(self, conn: asyncpg.Connection) -> Plan:
        """Plans again under the lock, and makes the history table, which two at once could not."""
        plan = await self._plan(conn)
        if not plan.applied and not plan.unfinished and not plan.future:
            await refuse_strangers(conn)
        if not await conn.fetchval(history.EXISTS):
            await conn.execute(history.CREATE)
        return plan

    async def _apply(self, conn: asyncpg.Connection, plan: Plan) -> None:
        self.watch = Watch(self.dsn)
        for index, migration in enumerate(plan.pending):
            again = any(row.version == migration.version for row in plan.unfinished)
            try:
                milliseconds = await self._apply_one(conn, migration, again=again)
            except CommitUnknown:
                self.unsure = migration.version
                raise
            except MigratorError as error:
                error.problems.append(self._left(plan, index))
                raise
            self.outcome.applied.append(Applied(migration.version, migration.name, milliseconds))
            self.say(f"applied {migration.file} in {milliseconds} ms")

    async def _apply_one(self, conn: asyncpg.Connection, migration: Migration, *, again: bool) -> int:
        assert self.watch is not None  # noqa: S101 - set just before
        if runs_alone(migration):
            repeat = Repeat(again=again, lock_timeout_ms=self.options.patience.lock_timeout_ms)
            return await apply_alone(conn, migration, repeat, self.watch, self.say)
        return await apply_file(conn, migration, self.options.patience, self.watch, self.say)

    def _left(self, plan: Plan, index: int) -> Problem:
        kept = ", ".join(applied.name for applied in self.outcome.applied) or "nothing"
        rest = ", ".join(migration.name for migration in plan.pending[index + 1 :]) or "nothing"
        return Problem("", f"applied by this run and kept: {kept}; not run: {rest}")


async def refuse_strangers(conn: asyncpg.Connection) -> None:
    """Raises BadFiles where a database without history already holds something."""
    found = [record[0] for record in await conn.fetch(STRANGERS)]
    if found:
        shown = ", ".join(found[:5]) + (", .." if len(found) > 5 else "")  # noqa: PLR2004
        hint = "if all that the files make is there: python -m migrator baseline; if not, use another database"
        raise BadFiles.of("", f"the database is not empty and has no history: {shown}", hint)


def ahead(plan: Plan) -> Ahead:
    """Makes the error for a database that is newer than the files."""
    names = ", ".join(row.name for row in plan.future)
    hint = "run the newer release; or, when going back on purpose, pass --allow-ahead"
    return Ahead.of("", f"the database is ahead: it holds {names}, of which this release has no file", hint)
