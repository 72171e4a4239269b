"""What may be typed: the commands, their options, and what `--help` says of them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.files import SQL_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Add = Callable[[argparse.ArgumentParser], None]

DESCRIPTION = """\
Brings a PostgreSQL database to the schema of this release, and keeps it honest.

The files migrator/sql/NNNN_name.sql are applied in order, each once, each in one transaction with the row of
migrator.history that says so. Two migrators at once are safe: one works, the others wait and find nothing to do.
Killed at any point, nothing is half-done: run it again.
"""
URL_HELP = "it is postgresql://user:password@host:port/name, PostgreSQL's own address and not a pooler's"
EPILOG = f"""\
database:    MIGRATION_DATABASE_URL, else DATABASE_URL:
             {URL_HELP}
exit codes:  0 done   1 a file's SQL failed   2 bad files or usage   3 files are pending   4 the catalog has drifted
             5 the database is ahead of this release   75 try again (no connection, a lock held too long, interrupted)
"""

BOOTSTRAP_EPILOG = """\
environment: MDW_ADMIN_KEY            the admin key's secret, from new-key, instead of one that is made here
             MDW_SERVICE_KEY_SYMBOLS  the keys that the services are given, from new-key as well; one that is
             MDW_SERVICE_KEY_INGEST   not set is not registered
A secret that is made here goes to --key-file, or is shown once where this runs on a terminal; never into a log.
"""
MAX_SECONDS = 1_000_000

# A width of its own: to ask for the terminal's, argparse imports half of the archive formats.
FORMATTER = partial(argparse.RawDescriptionHelpFormatter, width=118, max_help_position=24)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads a command line; ends the process with 2, and says why, where it is none."""
    arguments = list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m migrator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=FORMATTER,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = [name for name in COMMANDS if arguments[:1] == [name]]
    for name in chosen or COMMANDS:  # to build all of them takes longer than most runs' own work
        text, add = COMMANDS[name]
        command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", formatter_class=FORMATTER
        )
        command.set_defaults(module=f"command_{name.replace('-', '_')}", needs_database=name != "new-key")
        _shared(command)
        add(command)
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _milliseconds(text: str) -> int:
    """Reads a bound; 0 would be none at all: readers would wait behind us."""
    if not text.isdigit() or not 0 < int(text) < MAX_SECONDS * 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of milliseconds above 0")
    return int(text)


def _shared(command: argparse.ArgumentParser) -> None:
    json = "print one JSON object on standard output, notes on standard error"
    command.add_argument("--json", action="store_true", help=json)
    folder = "where the files are (default: those of this release)"
    command.add_argument("--folder", type=Path, default=SQL_FOLDER, help=folder)
    command.add_argument(
        "--wait", type=_seconds, default=60.0, metavar="S", help="wait this long for the database (60)"
    )


def _up(command: argparse.ArgumentParser) -> None:
    _locks(command)
    ahead = "end with 0 where the database is newer than this release"
    command.add_argument("--allow-ahead", action="store_true", help=ahead)


def _locks(command: argparse.ArgumentParser) -> None:
    lock_wait = "wait this long for another migrator (300)"
    command.add_argument("--lock-wait", type=_seconds, default=300.0, metavar="S", help=lock_wait)
    lock_timeout = "give up a lock on a table after this, and try again (100)"
    command.add_argument("--lock-timeout", type=_milliseconds, default=100, metavar="MS", help=lock_timeout)
    command.add_argument("--retry-for", type=_seconds, default=120.0, metavar="S", help="try again for this long (120)")


DISTRIBUTE_EPILOG = """\
It needs the extension citus in this database on every node, and the coordinator's URL. All moves in one transaction:
killed at any point, the next run finds what is left. Meanwhile no slice is handed out and workers wait; services go on
reading. Run `status` to see where the bars are. docs/scaling.md says when this pays.
"""


def _distribute(command: argparse.ArgumentParser) -> None:
    _locks(command)
    command.epilog = DISTRIBUTE_EPILOG
    command.add_argument("--undo", action="store_true", help="bring them back to the coordinator")
    command.add_argument("--dry-run", action="store_true", help="only check, and say what would be done")


def _bootstrap(command: argparse.ArgumentParser) -> None:
    _up(command)
    command.epilog = BOOTSTRAP_EPILOG
    key_file = "write a new admin key's secret here (mode 0600)"
    command.add_argument("--key-file", type=Path, metavar="FILE", help=key_file)
    another = "make another admin key, for one that was lost"
    command.add_argument("--new-admin-key", action="store_true", help=another)


def _none(_: argparse.ArgumentParser) -> None:
    """Adds nothing."""


def _status(command: argparse.ArgumentParser) -> None:
    check = "exit 3 when files are pending, 5 when the database is ahead"
    command.add_argument("--check", action="store_true", help=check)


def _verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("--schema-file", type=Path, help="compare with this file (default: migrator/schema.sql)")


def _wait(command: argparse.ArgumentParser) -> None:
    schema = "wait for this version (default: this release's newest)"
    command.add_argument("--schema", type=int, nargs="?", const=0, metavar="VERSION", help=schema)


def _baseline(command: argparse.ArgumentParser) -> None:
    command.add_argument("--to", type=int, metavar="VERSION", help="up to this version (default: the newest)")
    force = "even where the live catalog differs from what the files produce"
    command.add_argument("--force", action="store_true", help=force)


def _new_key(command: argparse.ArgumentParser) -> None:
    key_file = "write it here (mode 0600) instead of printing it"
    command.add_argument("--key-file", type=Path, metavar="FILE", help=key_file)


def _after_restore(command: argparse.ArgumentParser) -> None:
    log = "log lines in JSON; - is standard input; may be given again"
    command.add_argument("--log", type=Path, required=True, metavar="FILE", action="append", help=log)
    keep = "do not revoke this key, of which the log says nothing; may be given again"
    command.add_argument("--keep", action="append", default=[], metavar="KEY_ID", help=keep)
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")


COMMANDS: dict[str, tuple[str, Add]] = {
    "up": ("apply all pending files", _up),
    "bootstrap": ("migrate, verify, register the first keys, seed symbols", _bootstrap),
    "plan": ("show what up would run, in order", _none),
    "status": ("show what is applied and what is pending", _status),
    "verify": ("compare the live catalog with what the files produce", _verify),
    "wait": ("wait for the database, and for its schema with --schema", _wait),
    "baseline": ("record files as applied without running them", _baseline),
    "schema": ("print the live catalog as SQL (migrator/schema.sql is made so)", _none),
    "new-key": ("make a secret for a Secret or a file; touches no database", _new_key),
    "distribute": ("move the bars to the nodes of a Citus cluster, or back", _distribute),
    "after-restore": ("put the keys of a restored backup right, from the services' logs", _after_restore),
}
