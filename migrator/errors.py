"""The ways a run can end, each with the exit code that tells a Job what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    SQL_FAILED = 1
    BAD_FILES_OR_USAGE = 2
    PENDING = 3
    DRIFT = 4
    AHEAD = 5
    TRY_AGAIN = 75


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it is, and what helps."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def as_dict(self) -> dict[str, str]:
        """Returns the problem as JSON-ready fields."""
        return {"where": self.where, "message": self.message, "hint": self.hint}


class MigratorError(Exception):
    """A run that ends with something other than 0."""

    exit_code = Exit.SQL_FAILED

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @classmethod
    def of(cls, where: str, message: str, hint: str = "") -> Self:
        """Makes the error of a single problem."""
        return cls([Problem(where, message, hint)])


class SqlFailed(MigratorError):
    """A file's SQL failed and was undone whole."""


class BadFiles(MigratorError):
    """The folder, the history or the request is wrong; nothing ran."""

    exit_code = Exit.BAD_FILES_OR_USAGE


class Pending(MigratorError):
    """The database is behind the files."""

    exit_code = Exit.PENDING


class Drift(MigratorError):
    """The live catalog is not what the files produce."""

    exit_code = Exit.DRIFT


class Ahead(MigratorError):
    """The database holds versions that this program has no file of."""

    exit_code = Exit.AHEAD


class TryAgain(MigratorError):
    """A condition that passes: no connection, a lock held too long, an interruption."""

    exit_code = Exit.TRY_AGAIN


class CommitUnknown(Exception):
    """The connection broke while COMMIT was under way: only the history can say what happened."""
