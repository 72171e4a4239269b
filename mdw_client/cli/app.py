"""The command's frame: its groups, what every command takes, and how errors end it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from click.shell_completion import get_completion_class

from mdw_client.cli import actions, audit, backfill, bars, coverage, keys, schedule, status, symbols, sync
from mdw_client.cli.base import App, Group
from mdw_client.cli.failures import REFUSED, USAGE, exit_code, explain, tell
from mdw_client.errors import CallError, MdwError
from mdw_client.version import __version__

INTERRUPTED = 130
_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What a group without a command ends with, from click 8.2 on: all of the help."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mdw")
@click.option("--target", metavar="HOST[:PORT]", help="Where the services are; else MDW_TARGET, else this machine.")
@click.option(
    "--key-file", type=click.Path(dir_okay=False), help="A file with the API key; else MDW_KEY or MDW_KEY_FILE."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds a call may take."
)
@click.pass_obj
def mdw(app: App, target: str | None, key_file: str | None, timeout: float) -> None:
    """The market data warehouse: bars, symbols, backfills and keys.

    Every command takes --json: one JSON object a line, as the contracts name the fields.
    """
    app.arguments = {"target": target, "key_file": key_file, "timeout": timeout}


@mdw.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Prints what makes the shell complete: eval "$(mdw completion bash)"."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(mdw, {}, "mdw", "_MDW_COMPLETE").source())


mdw.add_command(status.status)
for group in (symbols.symbols, backfill.backfill, keys.keys, audit.audit, schedule.schedule, actions.actions):
    mdw.add_command(group)
mdw.add_command(bars.bars)
mdw.add_command(sync.sync)
mdw.add_command(coverage.coverage)
mdw.add_command(audit.rejects)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns the exit status."""
    app = App()
    try:
        result = mdw.main(arguments, prog_name="mdw", obj=app, standalone_mode=False)
    except (click.ClickException, click.Abort, click.exceptions.Exit, KeyboardInterrupt) as ended:
        return _ended(ended, as_json=app.as_json)
    except MdwError as error:
        explain(error, as_json=app.as_json)
        return exit_code(error) if isinstance(error, CallError) else USAGE
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not try to flush the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        tell(f"{error.filename or 'error'}: {error.strerror or error}", as_json=app.as_json)
        return REFUSED
    finally:
        app.close()
    return result if isinstance(result, int) else 0


def _ended(ended: BaseException, *, as_json: bool) -> int:
    """Returns the status of a command that click ended."""
    if isinstance(ended, click.exceptions.Exit):
        return ended.exit_code
    if isinstance(ended, _HELP):
        ended.show()
        return USAGE
    if isinstance(ended, click.ClickException):
        context = ended.ctx if isinstance(ended, click.UsageError) else None
        text = " ".join(ended.format_message().split()).removesuffix(".")
        tell(f"{text}; {context.command_path} --help" if context else text, as_json=as_json)
        return USAGE
    interrupted = isinstance(ended, KeyboardInterrupt) or isinstance(ended.__cause__, KeyboardInterrupt)
    return INTERRUPTED if interrupted else REFUSED
