"""`status`: what is applied, what is pending, and where the bars are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrator import connect, history
from migrator.errors import Exit
from migrator.files import load
from migrator.layout import layout_fields, layout_text
from migrator.plan import Plan, make_plan

if TYPE_CHECKING:
    import argparse

    from migrator.history import Row
    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    files = load(options.folder)
    conn = await connect.connect(dsn, options.wait, output.note, settings=connect.READER)
    try:
        plan = make_plan(files, await history.read_if_any(conn))
        layout = await layout_fields(conn)
    finally:
        await connect.close(conn)
    output.result({**fields(plan), "layout": layout}, f"{text(plan)}\n{layout_text(layout)}")
    if not options.check:
        return Exit.OK
    if plan.pending:
        return Exit.PENDING
    return Exit.AHEAD if plan.future else Exit.OK


def fields(plan: Plan) -> dict[str, Any]:
    """Returns the plan's state for programs."""
    return {
        "version": plan.version,
        "applied": [_row(row) for row in plan.applied],
        "unfinished": [_row(row) for row in plan.unfinished],
        "pending": [{"version": m.version, "name": m.name, "checksum": m.checksum} for m in plan.pending],
        "future": [_row(row) for row in plan.future],
        "notes": list(plan.notes),
    }


def text(plan: Plan) -> str:
    """Returns the plan's state for people: one line a file, and a sum."""
    unfinished = {row.version for row in plan.unfinished}
    lines = [_line(row, row.state.lower()) for row in plan.applied]
    for migration in plan.pending:
        note = "interrupted: up takes it up again" if migration.version in unfinished else "pending"
        lines.append(f"{migration.name:<40} {note}")
    lines += [_line(row, "in the database only: it is ahead") for row in plan.future]
    counts = f"{len(plan.applied)} applied, {len(plan.pending)} pending"
    ahead = f", {len(plan.future)} ahead" if plan.future else ""
    return "\n".join([*lines, *plan.notes, f"version {plan.version}: {counts}{ahead}"])


def _line(row: Row, state: str) -> str:
    return f"{row.name:<40} {state} {row.applied_at:%Y-%m-%d %H:%M:%S}Z by {row.applied_by} in {row.duration_ms} ms"


def _row(row: Row) -> dict[str, Any]:
    return {
        "version": row.version,
        "name": row.name,
        "checksum": row.checksum,
        "state": row.state,
        "applied_at": row.applied_at.isoformat(),
        "applied_by": row.applied_by,
        "duration_ms": row.duration_ms,
        "program_version": row.program_version,
    }
