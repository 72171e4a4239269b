"""What a person or a Job types, and the exit code it gets."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.errors import BadFiles, Exit, MigratorError
from migrator.files import SQL_FOLDER
from migrator.output import Output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Command = Callable[[argparse.Namespace, Output, str], Awaitable[Exit]]

SIGNALS = (signal.SIGTERM, signal.SIGINT)

DESCRIPTION = """\
Brings a PostgreSQL database to the schema of this release, and keeps it honest.

The files migrator/sql/NNNN_name.sql are applied in order, each once, each in one transaction with the row of
migrator.history that says so. Two migrators at once are safe: one works, the others wait and find nothing to do.
Killed at any point, nothing is half-done: run it again.
"""
EPILOG = """\
database:    MIGRATION_DATABASE_URL, else DATABASE_URL (postgresql://user:password@host:port/name), never a pooler's
exit codes:  0 done   1 a file's SQL failed   2 bad files or usage   3 files are pending   4 the catalog has drifted
             5 the database is ahead of this release   75 try again (no connection, a lock held too long, interrupted)
"""


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Runs one command and returns its exit code."""
    return asyncio.run(execute(parser().parse_args(arguments), environ))


async def execute(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Runs the command as a task that SIGTERM and SIGINT cancel, so that the statement under way is cancelled, too."""
    output = Output(json=options.json)
    task = asyncio.ensure_future(_run(options, output, environ))
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return int(await task)
    except MigratorError as error:
        output.error(error)
        return int(error.exit_code)
    except asyncio.CancelledError:
        output.note("interrupted: nothing is half-done, run it again")
        return int(Exit.TRY_AGAIN)
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _run(options: argparse.Namespace, output: Output, environ: Mapping[str, str]) -> Exit:
    options.environ = environ
    dsn = database_url(environ) if options.needs_database else ""
    command: Command = options.command
    return await command(options, output, dsn)


def database_url(environ: Mapping[str, str]) -> str:
    """Returns the URL of the database to migrate."""
    url = environ.get("MIGRATION_DATABASE_URL") or environ.get("DATABASE_URL")
    if not url:
        raise BadFiles.of("", "neither MIGRATION_DATABASE_URL nor DATABASE_URL is set", EPILOG.splitlines()[0])
    return url


def parser() -> argparse.ArgumentParser:
    """Returns what reads the command line."""
    found = argparse.ArgumentParser(
        prog="python -m migrator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    _add_up(commands)
    _add_readers(commands)
    _add_writers(commands)
    return found


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    module: str,
    text: str,
    *,
    needs_database: bool = True,
) -> argparse.ArgumentParser:
    """Adds a command that lives in a module of its own, imported when it is run: the common one starts fast."""

    async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
        from importlib import import_module  # noqa: PLC0415

        command: Command = import_module(f"migrator.{module}").run
        return await command(options, output, dsn)

    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, notes on standard error"
    )
    parser.add_argument(
        "--folder", type=Path, default=SQL_FOLDER, help="where the files are (default: those of this release)"
    )
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="wait this long for the database (60)")
    parser.set_defaults(command=run, needs_database=needs_database)
    return parser


def _add_up(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "up", "command_up", "apply all pending files")
    add_up_options(parser)
    parser = _add(commands, "bootstrap", "command_bootstrap", "migrate, verify, register the first keys, seed symbols")
    add_up_options(parser)
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="write a new admin key's secret here (mode 0600)")
    parser.add_argument("--new-admin-key", action="store_true", help="make another admin key, for one that was lost")


def add_up_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `up` and `bootstrap` share."""
    parser.add_argument(
        "--lock-wait", type=float, default=300.0, metavar="S", help="wait this long for another migrator (300)"
    )
    parser.add_argument(
        "--lock-timeout",
        type=int,
        default=100,
        metavar="MS",
        help="give up a lock on a table after this, and try again (100)",
    )
    parser.add_argument("--retry-for", type=float, default=120.0, metavar="S", help="try again for this long (120)")
    parser.add_argument(
        "--allow-ahead", action="store_true", help="end with 0 where the database is newer than this release"
    )


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add(commands, "plan", "command_plan", "show what up would run, in order")
    parser = _add(commands, "status", "command_status", "show what is applied and what is pending")
    parser.add_argument(
        "--check", action="store_true", help="exit 3 when files are pending, 5 when the database is ahead"
    )
    parser = _add(commands, "verify", "command_verify", "compare the live catalog with what the files produce")
    parser.add_argument("--schema-file", type=Path, help="compare with this file (default: migrator/schema.sql)")
    parser = _add(commands, "wait", "command_wait", "wait for the database, and for its schema with --schema")
    parser.add_argument(
        "--schema",
        type=int,
        nargs="?",
        const=0,
        metavar="VERSION",
        help="wait for this version (default: this release's newest)",
    )
    _add(commands, "schema", "command_schema", "print the live catalog as SQL (migrator/schema.sql is made so)")


def _add_writers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "baseline", "command_baseline", "record files as applied without running them")
    parser.add_argument("--to", type=int, metavar="VERSION", help="up to this version (default: the newest)")
    parser.add_argument(
        "--force", action="store_true", help="even where the live catalog differs from what the files produce"
    )
    parser = _add(
        commands,
        "new-key",
        "command_new_key",
        "make a secret for a Secret or a file; touches no database",
        needs_database=False,
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="write it here (mode 0600) instead of printing it"
    )
    parser = _add(
        commands,
        "after-restore",
        "command_after_restore",
        "put the keys of a restored backup right, from the services' logs",
    )
    parser.add_argument(
        "--log",
        type=Path,
        required=True,
        metavar="FILE",
        action="append",
        help="log lines in JSON; - is standard input",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="KEY_ID",
        help="do not revoke this key, of which the log says nothing",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
