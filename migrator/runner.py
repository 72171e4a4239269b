"""Brings a database up to the files: plan, lock, plan again, apply, each file whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import connect, history
from migrator.errors import Ahead, CommitUnknown
from migrator.files import SQL_FOLDER, load
from migrator.options import Applied, Options, Outcome, silent
from migrator.plan import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import asyncpg

    from migrator.files import Migration


async def up(
    dsn: str, folder: Path = SQL_FOLDER, *, options: Options | None = None, say: Callable[[str], None] = silent
) -> Outcome:
    """Applies every pending file in order; raises a MigratorError, with what was kept, when one does not go in."""
    run = Run(dsn, load(folder), options or Options(), say)
    while True:
        conn = await connect.connect(dsn, run.options.wait, say, before_waiting=run.check_all)
        try:
            return await run.over(conn)
        except CommitUnknown:
            say("the connection broke in COMMIT: asking the history whether it happened")
        finally:
            await connect.close(conn)


class Run:
    """One run of `up`: what it was asked, and what it has applied so far, over any number of connections."""

    def __init__(self, dsn: str, files: Sequence[Migration], options: Options, say: Callable[[str], None]) -> None:
        self.dsn = dsn
        self.files = files
        self.options = options
        self.say = say
        self.outcome = Outcome()
        self.unsure = 0
        """The version whose COMMIT was never answered."""

    async def over(self, conn: asyncpg.Connection) -> Outcome:
        """Applies what is pending over one connection."""
        server = await connect.look(conn)
        plan = self.plan(await history.read(conn) if server.has_history else ())
        self._settle(plan)
        if plan.pending:
            # Most runs find nothing to do: they take no lock, and never load what the work needs.
            from migrator.pending import apply_pending  # noqa: PLC0415

            plan = await apply_pending(self, conn, server, plan)
        self.outcome.version = max([plan.version, *(migration.version for migration in plan.pending)])
        self.outcome.notes = plan.notes
        return self.outcome

    def plan(self, rows: Sequence[history.Row]) -> Plan:
        """Compares files and history; raises Ahead where that is not allowed."""
        plan = make_plan(self.files, rows)
        if plan.future and not self.options.allow_ahead:
            raise ahead(plan)
        return plan

    def check_all(self) -> None:
        """Refuses bad files, pending or not, before a long wait for the database."""
        from migrator.check import check  # noqa: PLC0415 - seldom needed

        check(self.files)

    def _settle(self, plan: Plan) -> None:
        """Counts a file as applied by this run if its COMMIT went through though no answer came."""
        for row in plan.applied:
            if row.version == self.unsure:
                self.outcome.applied.append(Applied(row.version, row.name, row.duration_ms))


def ahead(plan: Plan) -> Ahead:
    """Makes the error for a database that is newer than the files."""
    names = ", ".join(row.name for row in plan.future)
    hint = "run the newer release; or, when going back on purpose, pass --allow-ahead"
    return Ahead.of("", f"the database is ahead: it holds {names}, of which this release has no file", hint)
