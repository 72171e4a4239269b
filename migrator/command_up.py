"""`up`: applies all pending files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.errors import Exit
from migrator.options import Options, Outcome
from migrator.runner import up

if TYPE_CHECKING:
    import argparse

    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    outcome = await up(dsn, options.folder, options=run_options(options), say=output.say)
    fields = {
        "version": outcome.version,
        "applied": [{"version": a.version, "name": a.name, "duration_ms": a.duration_ms} for a in outcome.applied],
        "notes": list(outcome.notes),
    }
    output.result(fields, describe(outcome))
    return Exit.OK


def run_options(options: argparse.Namespace) -> Options:
    """Reads a run's options from the command line."""
    return Options(
        wait=options.wait,
        lock_wait=options.lock_wait,
        lock_timeout_ms=options.lock_timeout,
        retry_for=options.retry_for,
        allow_ahead=getattr(options, "allow_ahead", False),
    )


def describe(outcome: Outcome) -> str:
    """Says in a line or two what a run did."""
    count = len(outcome.applied)
    done = f"applied {count} file{'s' if count != 1 else ''}" if count else "nothing to do"
    return "\n".join([*outcome.notes, f"{done}; the schema is at version {outcome.version}"])
