"""Prints for people or for programs: with --json, standard output holds one JSON object and nothing else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migrator.errors import MigratorError


class Output:
    """Where a command's words go."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def say(self, text: str) -> None:
        """Tells how the work goes on."""
        print(text, file=sys.stderr if self.json else sys.stdout, flush=True)

    def note(self, text: str) -> None:
        """Tells something that is not the result."""
        print(text, file=sys.stderr, flush=True)

    def event(self, fields: dict[str, Any]) -> None:
        """Logs an event as services do, unless a person watches standard error."""
        if not sys.stderr.isatty():
            print(_dumps(fields), file=sys.stderr, flush=True)

    def result(self, fields: dict[str, Any], text: str) -> None:
        """Gives the answer, in one of its two forms."""
        print(_dumps(fields) if self.json else text, flush=True)

    def error(self, error: MigratorError) -> int:
        """Gives the reasons for an exit code other than 0, and returns it."""
        if self.json:
            problems = [problem.as_dict() for problem in error.problems]
            print(_dumps({"exit_code": int(error.exit_code), "problems": problems}), flush=True)
        else:
            print(f"migrator: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)


def _dumps(fields: dict[str, Any]) -> str:
    import json  # noqa: PLC0415 - only where it is asked for

    return json.dumps(fields, default=str)
