"""The work of a run that has something to do: under the lock, file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import connect, history, lock
from migrator.alone import apply_alone
from migrator.apply import apply_file, runs_alone
from migrator.check import check
from migrator.cluster import require_coordinator
from migrator.errors import BadFiles, CommitUnknown, MigratorError, Problem
from migrator.options import Applied
from migrator.watch import Watch

if TYPE_CHECKING:
    import asyncpg

    from migrator.files import Migration
    from migrator.plan import Plan
    from migrator.runner import Run

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
MAY_RECORD = "SELECT has_table_privilege('migrator.history', 'INSERT')"
SHOWN = 5


async def apply_pending(run: Run, conn: asyncpg.Connection, server: connect.Server, plan: Plan) -> Plan:
    """Applies what is pending, and returns the plan it followed: the one that was made under the lock."""
    check(plan.pending)
    connect.require_writable(server, first_run=not server.has_history)
    await require_coordinator(conn)
    if server.has_history and not await conn.fetchval(MAY_RECORD):
        hint = "run it as the role that owns the schema"
        raise BadFiles.of("", f"role {server.role} may not write migrator.history", hint)
    await lock.acquire(conn, run.options.lock_wait, run.say)
    plan = await _prepare(run, conn)
    watch = Watch(run.dsn)
    try:
        for index, migration in enumerate(plan.pending):
            try:
                milliseconds = await _apply(run, conn, plan, migration, watch)
            except CommitUnknown:
                run.unsure = migration.version
                raise
            except MigratorError as error:
                error.problems.append(_left(run, plan, index))
                raise
            run.outcome.applied.append(Applied(migration.version, migration.name, milliseconds))
            run.say(f"applied {migration.file} in {milliseconds} ms")
    finally:
        await watch.close()
    return plan


async def _prepare(run: Run, conn: asyncpg.Connection) -> Plan:
    """Plans again under the lock, and makes the history table, which two at once could not."""
    has_history = await conn.fetchval(history.EXISTS)
    plan = run.plan(await history.read(conn) if has_history else ())
    if not plan.applied and not plan.unfinished and not plan.future:
        await _refuse_strangers(conn)
    if not has_history:
        await conn.execute(history.CREATE)
    return plan


async def _apply(run: Run, conn: asyncpg.Connection, plan: Plan, migration: Migration, watch: Watch) -> int:
    if not runs_alone(migration):
        return await apply_file(conn, migration, run.options, watch, run.say)
    again = any(row.version == migration.version for row in plan.unfinished)
    return await apply_alone(conn, migration, run.options, watch, run.say, again=again)


async def _refuse_strangers(conn: asyncpg.Connection) -> None:
    """Raises BadFiles where a database without history already holds something."""
    found = [record[0] for record in await conn.fetch(STRANGERS)]
    if found:
        shown = ", ".join(found[:SHOWN]) + (", .." if len(found) > SHOWN else "")
        hint = "if all that the files make is there: python -m migrator baseline; if not, use another database"
        raise BadFiles.of("", f"the database is not empty and has no history: {shown}", hint)


def _left(run: Run, plan: Plan, index: int) -> Problem:
    kept = ", ".join(applied.name for applied in run.outcome.applied) or "nothing"
    rest = ", ".join(migration.name for migration in plan.pending[index + 1 :]) or "nothing"
    return Problem("", f"applied by this run and kept: {kept}; not run: {rest}")
