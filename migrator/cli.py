"""Runs what was typed, and gives the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
from importlib import import_module
from typing import TYPE_CHECKING

from migrator.errors import BadFiles, MigratorError, TryAgain
from migrator.output import Output
from migrator.usage import URL_HELP, parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from migrator.errors import Exit

    Command = Callable[[argparse.Namespace, Output, str], Awaitable[Exit]]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    return asyncio.run(execute(parse(arguments), os.environ))


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
        return output.error(error)
    except asyncio.CancelledError:
        return output.error(TryAgain.of("", "interrupted", "run it again: it goes on where this run ended"))
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _run(options: argparse.Namespace, output: Output, environ: Mapping[str, str]) -> Exit:
    """Imports the command's module when it is run, so that the common one starts fast."""
    options.environ = environ
    dsn = database_url(environ) if options.needs_database else ""
    command: Command = import_module(f"migrator.{options.module}").run
    try:
        return await command(options, output, dsn)
    except (MigratorError, asyncio.CancelledError):
        raise
    except Exception as error:
        connect = import_module("migrator.connect")
        if not isinstance(error, connect.UNREACHABLE):
            raise
        raise connect.explained(error) from error


def database_url(environ: Mapping[str, str]) -> str:
    """Returns the URL of the database to migrate."""
    url = environ.get("MIGRATION_DATABASE_URL") or environ.get("DATABASE_URL")
    if not url:
        raise BadFiles.of("", "neither MIGRATION_DATABASE_URL nor DATABASE_URL is set", URL_HELP)
    return url
