"""`distribute`: moves the bars to the nodes of a Citus cluster, or back to one server with --undo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrator import cluster, connect, history, lock
from migrator.command_up import run_options
from migrator.distribute import Mover
from migrator.errors import BadFiles, Exit
from migrator.files import load
from migrator.layout import KEY_COLUMN, MOVED, Layout, layout_problems, read_layout, size_text
from migrator.plan import make_plan
from migrator.verify import require_newest

if TYPE_CHECKING:
    import argparse

    import asyncpg

    from migrator.output import Output

SIZES = """
SELECT name, pg_table_size(name::regclass) + pg_indexes_size(name::regclass) AS bytes, reltuples::bigint AS bars
FROM unnest($1::text[]) AS name
JOIN pg_class ON oid = name::regclass
"""


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    files = load(options.folder)
    conn = await connect.connect(dsn, options.wait, output.note)
    try:
        connect.require_writable(await connect.look(conn), first_run=False)
        await cluster.require_coordinator(conn)
        require_newest(make_plan(files, await history.read_if_any(conn)))
        await cluster.require_owner(conn)
        if not options.dry_run:
            await lock.acquire(conn, options.lock_wait, output.say)
        steps = await _undo_steps(conn) if options.undo else await _steps(conn)
        for step in steps.values():
            output.say(("would " if options.dry_run else "will ") + step)
        if steps and not options.dry_run:
            await _do(Mover(conn, run_options(options), output.say), steps)
        layout = await read_layout(conn)
    finally:
        await connect.close(conn)
    _result(output, layout, steps, dry_run=options.dry_run)
    return Exit.OK


async def _steps(conn: asyncpg.Connection) -> dict[str, str]:
    """Returns what is to be done, each step with its words; raises BadFiles where it cannot be."""
    there = await cluster.require_cluster(conn)
    layout = await read_layout(conn)
    _refuse_others(layout)
    steps: dict[str, str] = {}
    if there.recovery_ms > cluster.INTERVAL_MS:
        steps["recovery"] = f"set {cluster.INTERVAL} to 2 s, from {there.recovery_ms // 1000} s"
    if not layout.moved:
        names = [name for name in MOVED if name not in layout.spread]
        steps["move"] = (
            f"move {await _described(conn, names)} to {', '.join(there.holders)} by {KEY_COLUMN}: "
            f"the parts under way are waited for, no slice is handed out meanwhile, reads go on"
        )
    if "move" in steps or layout.left_here:
        steps["free"] = "free the local copy: new reads wait for the moment that takes"
    return steps


async def _undo_steps(conn: asyncpg.Connection) -> dict[str, str]:
    layout = await read_layout(conn)
    names = [name for name in MOVED if name in layout.spread]
    if not names:
        return {}
    return {
        "back": f"bring {' and '.join(names)} back to this server: the parts under way are waited for, no slice is "
        "handed out meanwhile, and towards the end reads wait, too"
    }


async def _do(mover: Mover, steps: dict[str, str]) -> None:
    if "recovery" in steps:
        await mover.shorten_recovery()
    if "move" in steps:
        await mover.distribute()
    if "free" in steps:
        await mover.free()
    if "back" in steps:
        await mover.undistribute()


async def _described(conn: asyncpg.Connection, names: list[str]) -> str:
    """Names tables with their size here and how many rows they are thought to have."""
    rows = await conn.fetch(SIZES, names)
    return " and ".join(f"{row['name']} ({size_text(row['bytes'])}{_counted(row['bars'])})" for row in rows)


def _counted(rows: int) -> str:
    return f", about {rows:,} rows" if rows >= 0 else ""  # -1 before the first ANALYZE


def _refuse_others(layout: Layout) -> None:
    """Raises BadFiles where somebody distributed tables in another way."""
    problems = [problem for problem in layout_problems(layout) if not problem.message.startswith("is plain")]
    if problems:
        hint = "bring the tables back first: python -m migrator distribute --undo"
        raise BadFiles.of(problems[0].where, problems[0].message, hint)


def _result(output: Output, layout: Layout, steps: dict[str, str], *, dry_run: bool) -> None:
    kind = "distributed" if layout.moved else "plain"
    fields: dict[str, Any] = {"layout": kind, "steps": list(steps.values()), "dry_run": dry_run}
    if not steps:
        text = f"nothing to do: the layout is {kind}"
    else:
        text = "nothing was changed (--dry-run)" if dry_run else f"done: the layout is {kind}"
    output.result(fields, text)
